"""Sentences of film reviews, judged by people: C. J. Hutto, E. Gilbert, ICWSM 2014. They come with
the source of vaderSentiment, an archive in an archive, and are not fastrnn's to hand on.
"""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from typing import IO, cast

SOURCE = Path("vaderSentiment-3.3.2.tar.gz")


def film_reviews(source: Path) -> list[tuple[list[str], int]]:
    """Words, and 1 for praise: those found at least slightly good or bad, 1 or more of 4."""
    with tarfile.open(source) as outer:
        inside = f"{source.name[:-7]}/additional_resources/hutto_ICWSM_2014.tar.gz"
        with tarfile.open(fileobj=outer.extractfile(inside)) as inner:
            name = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
            text = cast(IO[bytes], inner.extractfile(name)).read().decode(errors="replace")
    rows = [line.split("\t") for line in text.splitlines()]
    split = re.compile(r"[a-z']+|[!?.,]").findall
    reviews = [
        (split(row[2].lower()), int(float(row[1]) > 0)) for row in rows if abs(float(row[1])) >= 1
    ]
    return [r for r in reviews if r[0]]
