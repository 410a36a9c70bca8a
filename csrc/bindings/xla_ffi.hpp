// The part of XLA's foreign function interface (openxla/xla, xla/ffi/api/c_api.h, Apache-2.0) that
// a handler on the CPU needs: plain C structs, the same from version 0.1 on. A newer runtime takes
// handlers of an older version of the same major one; an older refuses newer ones.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastrnn::bindings::xla {

constexpr int kMajorVersion = 0, kMinorVersion = 1;

enum class ExtensionType : int { kMetadata = 1 };

struct Extension {
  size_t struct_size;
  ExtensionType type;
  Extension* next;
};

struct Version {
  size_t struct_size;
  Extension* extensions;
  int major_version, minor_version;
};

struct Metadata {  // what the runtime asks of a handler when it is registered
  size_t struct_size;
  Version version;
  uint32_t traits;
};

struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};

struct Error;

constexpr int kInvalidArgument = 3, kInternal = 13;

struct NewError {
  size_t struct_size;
  Extension* extensions;
  const char* message;
  int code;
};

struct Api {
  size_t struct_size;
  Extension* extensions;
  Version version;
  const void* internal;
  Error* (*new_error)(NewError*);
};

enum class DType : int { kBool = 1, kInt32 = 4, kInt64 = 5, kFloat32 = 11, kFloat64 = 12 };

struct Buffer {
  size_t struct_size;
  Extension* extensions;
  DType dtype;
  void* data;
  int64_t rank;
  int64_t* dims;
};

enum class Kind : int { kBuffer = 1 };  // of an argument or a result

struct Buffers {
  size_t struct_size;
  Extension* extensions;
  int64_t size;
  Kind* kinds;
  void** items;
};

struct Text {
  const char* data;
  size_t size;
};

enum class AttributeKind : int { kScalar = 3, kString = 4 };

struct Scalar {
  DType dtype;
  void* value;
};

struct Attributes {
  size_t struct_size;
  Extension* extensions;
  int64_t size;
  AttributeKind* kinds;
  Text** names;
  void** items;
};

enum class Stage : int { kExecute = 3 };

struct CallFrame {
  size_t struct_size;
  Extension* extensions;
  const Api* api;
  void* context;
  Stage stage;
  Buffers arguments;
  Buffers results;
  Attributes attributes;
};

}  // namespace fastrnn::bindings::xla
