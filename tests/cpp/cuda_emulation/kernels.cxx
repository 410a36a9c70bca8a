// The CUDA backend as C++ for the host.
#include "kernels.cu"
