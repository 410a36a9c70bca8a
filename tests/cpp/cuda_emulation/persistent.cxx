// The CUDA backend's persistent kernels as C++ for the host.
#include "persistent.cu"
