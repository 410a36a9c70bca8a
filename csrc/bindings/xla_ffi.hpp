// The part of XLA's foreign function interface (openxla/xla, xla/ffi/api/c_api.h, Apache-2.0) that
// a handler needs: plain C structs, the same from version 0.1 on. A newer runtime takes
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

// What a handler asks of its call's `context`.
struct GetStream {
  size_t struct_size;
  Extension* extensions;
  void* context;
  void* stream;  // out
};

struct GetDevice {
  size_t struct_size;
  Extension* extensions;
  void* context;
  int32_t device;  // out
};

struct Allocate {
  size_t struct_size;
  Extension* extensions;
  void* context;
  size_t size, alignment;
  void* data;  // out
};

struct Release {
  size_t struct_size;
  Extension* extensions;
  void* context;
  size_t size;
  void* data;
};

struct Api {
  size_t struct_size;
  Extension* extensions;
  Version version;
  const void* internal;
  Error* (*new_error)(NewError*);
  void* of_errors_and_handlers[3];
  Error* (*get_stream)(GetStream*);
  void* of_types_and_states[4];
  Error* (*allocate)(Allocate*);
  Error* (*release)(Release*);
  void* of_threads_and_runs[6];
  Error* (*get_device)(GetDevice*);  // not in the oldest runtimes
};

enum class ElementType : int { kBool = 1, kInt32 = 4, kInt64 = 5, kFloat32 = 11, kFloat64 = 12 };

struct Buffer {
  size_t struct_size;
  Extension* extensions;
  ElementType dtype;
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
  ElementType dtype;
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
