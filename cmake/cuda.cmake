# Looks for an nvcc that works (FASTRNN_CUDA) and sets CMAKE_CUDA_COMPILER and FASTRNN_CUDA_ARCHS, or leaves both unset.
string(TOUPPER "${FASTRNN_CUDA}" fastrnn_cuda_mode)
if(NOT fastrnn_cuda_mode MATCHES "^(AUTO|ON|OFF|PYPI)$")
  message(FATAL_ERROR "fastrnn: FASTRNN_CUDA must be AUTO, ON, OFF or PYPI, got '${FASTRNN_CUDA}'")
endif()
if(fastrnn_cuda_mode STREQUAL "OFF" OR NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/kernels.cu)
  return()
endif()

# The toolkit of the PyPI wheels (cuda-toolkit[nvcc,cccl]) lies in site-packages/nvidia/cu13. Its layout needs two
# remedies: the wheels hold lib/ where nvcc.profile looks in lib64/, and only libcudart.so.13 where
# FindCUDAToolkit wants the unversioned name.
macro(fastrnn_use_pypi_nvcc)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c "
import glob, importlib.util as u
s = u.find_spec('nvidia')
c = [n for d in (s.submodule_search_locations if s else ()) for n in glob.glob(d + '/cu[0-9]*/bin/nvcc')]
print(max(c) if c else '', end='')"
    OUTPUT_VARIABLE fastrnn_nvcc ERROR_QUIET)
  if(fastrnn_nvcc)
    get_filename_component(CUDAToolkit_ROOT "${fastrnn_nvcc}/../.." ABSOLUTE)
    file(GLOB fastrnn_cudart "${CUDAToolkit_ROOT}/lib/libcudart.so.*")
    set(CUDA_CUDART "${fastrnn_cudart}" CACHE FILEPATH "" FORCE)
    set(ENV{NVCC_APPEND_FLAGS} "-L${CUDAToolkit_ROOT}/lib $ENV{NVCC_APPEND_FLAGS}")
  endif()
endmacro()

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  unset(fastrnn_nvcc)
  if(NOT fastrnn_cuda_mode STREQUAL "PYPI")
    # check_language searches PATH alone
    find_program(fastrnn_nvcc nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin NO_CACHE)
  endif()
  if(NOT fastrnn_nvcc AND Python_EXECUTABLE)
    fastrnn_use_pypi_nvcc()
  endif()
  if(fastrnn_nvcc)
    set(ENV{CUDACXX} "${fastrnn_nvcc}")
  endif()
endif()
if(NOT DEFINED CMAKE_CUDA_HOST_COMPILER AND NOT DEFINED ENV{CUDAHOSTCXX})
  set(CMAKE_CUDA_HOST_COMPILER "${CMAKE_CXX_COMPILER}")
endif()
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80)   # for CMake's check of the compiler; the target has its own list
endif()
include(CheckLanguage)
check_language(CUDA)

if(CMAKE_CUDA_COMPILER)
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)   # CMake before 3.26 does not know that nvcc speaks C++20
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  endif()
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12)
    set(fastrnn_cuda_problem "nvcc ${CMAKE_CUDA_COMPILER_VERSION} does not know C++20, 12.0 does")
  endif()
elseif(DEFINED ENV{CUDACXX})
  set(fastrnn_cuda_problem "$ENV{CUDACXX} cannot build a program (host compiler? incomplete toolkit?)")
elseif(NOT fastrnn_cuda_mode STREQUAL "AUTO")
  set(fastrnn_cuda_problem "no nvcc on PATH, in CUDA_HOME, CUDA_PATH, /usr/local/cuda or the PyPI package cuda-toolkit[nvcc]")
endif()
if(fastrnn_cuda_problem)
  if(NOT fastrnn_cuda_mode STREQUAL "AUTO")
    message(FATAL_ERROR "fastrnn: FASTRNN_CUDA=${fastrnn_cuda_mode}, but ${fastrnn_cuda_problem}")
  endif()
  message(WARNING "fastrnn: ${fastrnn_cuda_problem}: CPU-only build")
  unset(CMAKE_CUDA_COMPILER)
  unset(CMAKE_CUDA_COMPILER CACHE)
endif()
if(NOT CMAKE_CUDA_COMPILER)
  return()
endif()

find_package(CUDAToolkit REQUIRED)
if(FASTRNN_CUDA_ARCHITECTURES)
  set(FASTRNN_CUDA_ARCHS ${FASTRNN_CUDA_ARCHITECTURES})
elseif(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
  set(FASTRNN_CUDA_ARCHS 80-real 90a-real 100-real 100-virtual)
else()
  set(FASTRNN_CUDA_ARCHS 80-real 90a-real 90-virtual)
endif()
