// How float32 arrays are multiplied on a GPU, for the whole process. CPUs multiply float32 in
// float32 whatever it says.
#pragma once

#include <string>

namespace fastrnn {

enum class Float32Precision : int {
  kStrict,  // to float32's own accuracy
  kTf32     // allowed: factors rounded to 10 bits of mantissa, as the tensor cores' TF32 does
};

// What was set, or else what FASTRNN_FLOAT32_PRECISION says, or kStrict. Throws ValueError where
// that names none.
Float32Precision float32_precision();

// Throws ValueError with `source`, who asks, where `name` is neither "strict" nor "tf32".
Float32Precision precision_called(const char* source, const std::string& name);
const char* name_of(Float32Precision precision);
void set_float32_precision(Float32Precision precision);

}  // namespace fastrnn
