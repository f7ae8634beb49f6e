/// Reads the weights of a .safetensors file: an 8-byte header length, a JSON header, the bytes of the tensors.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace semantic_search {

/// The bytes of a file, mapped for reading.
class mapped_file {
 public:
  explicit mapped_file(const std::filesystem::path& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    if (file < 0 || ::fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
      if (file >= 0) ::close(file);
      throw std::runtime_error("cannot read " + path.string());
    }
    size_ = static_cast<std::size_t>(status.st_size);
    if (size_ > 0) data_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    ::close(file);
    if (data_ == MAP_FAILED) throw std::runtime_error("cannot map " + path.string());
  }
  mapped_file(const mapped_file&) = delete;
  mapped_file& operator=(const mapped_file&) = delete;
  ~mapped_file() {
    if (data_ != nullptr) ::munmap(data_, size_);
  }

  std::string_view bytes() const { return {static_cast<const char*>(data_), size_}; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

/// The named tensors of one file. Every offset is checked against the file before it is followed, so a damaged file
/// throws std::runtime_error and nothing else.
class safetensors {
 public:
  explicit safetensors(const std::filesystem::path& path) : path_(path.string()), file_(path) {
    static_assert(std::endian::native == std::endian::little, "safetensors are stored little-endian");
    const std::string_view bytes = file_.bytes();
    std::uint64_t header_size = 0;
    if (bytes.size() < sizeof header_size) fail("it is shorter than the length of its header");
    std::memcpy(&header_size, bytes.data(), sizeof header_size);
    if (header_size > bytes.size() - sizeof header_size) fail("its header reaches past the end of the file");
    data_ = bytes.substr(sizeof header_size + header_size);
    header_reader(*this, bytes.substr(sizeof header_size, header_size)).read();
  }

  /// The elements of a float tensor of exactly this shape, dense, last axis fastest. They live as long as this object.
  const float* floats(const std::string& name, const std::vector<std::uint64_t>& shape) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) fail("it has no tensor " + name);
    const tensor& t = found->second;
    if (t.dtype != "F32") fail(name + " holds " + t.dtype + ", expected F32");
    if (t.shape != shape) fail(name + " has shape " + text(t.shape) + ", expected " + text(shape));
    const char* first = data_.data() + t.begin;
    if (reinterpret_cast<std::uintptr_t>(first) % alignof(float) != 0) fail(name + " is not aligned to its elements");
    return reinterpret_cast<const float*>(first);
  }

 private:
  struct tensor {
    std::string dtype;
    std::vector<std::uint64_t> shape;
    std::uint64_t begin = 0, end = 0;
  };

  /// The header is JSON of one form: names, each with dtype, shape and data_offsets, and `__metadata__`, a table of
  /// strings.
  class header_reader {
   public:
    header_reader(safetensors& target, std::string_view json) : target_(target), json_(json) {}

    void read() {
      object([this](const std::string& name) {
        if (name == "__metadata__") {
          object([this](const std::string&) { string(); });
        } else {
          tensor t = read_tensor();
          target_.check(name, t);
          if (!target_.tensors_.emplace(name, std::move(t)).second) target_.fail("it has two tensors " + name);
        }
      });
      skip_spaces();
      if (at_ != json_.size()) stop("end of the header");
    }

   private:
    tensor read_tensor() {
      tensor t;
      std::vector<std::uint64_t> offsets;
      object([&](const std::string& field) {
        if (field == "dtype") {
          t.dtype = string();
        } else if (field == "shape") {
          t.shape = integers();
        } else if (field == "data_offsets") {
          offsets = integers();
        } else {
          stop("dtype, shape or data_offsets");
        }
      });
      if (t.dtype.empty() || offsets.size() != 2) stop("dtype and two data_offsets before this");
      t.begin = offsets[0];
      t.end = offsets[1];
      return t;
    }

    template <class Member>
    void object(Member member) {
      expect('{');
      if (accept('}')) return;
      do {
        const std::string name = string();
        expect(':');
        member(name);
      } while (accept(','));
      expect('}');
    }

    std::vector<std::uint64_t> integers() {
      std::vector<std::uint64_t> values;
      expect('[');
      if (accept(']')) return values;
      do {
        values.push_back(integer());
      } while (accept(','));
      expect(']');
      return values;
    }

    std::uint64_t integer() {
      skip_spaces();
      const std::size_t first = at_;
      std::uint64_t value = 0;
      for (; at_ < json_.size() && json_[at_] >= '0' && json_[at_] <= '9'; ++at_) {
        // 18 digits fit whatever they are.
        if (at_ - first == 18) stop("an integer below 10^18");
        value = value * 10 + static_cast<std::uint64_t>(json_[at_] - '0');
      }
      if (at_ == first) stop("an integer");
      return value;
    }

    /// Escapes are kept as they are written: the names of tensors need none.
    std::string string() {
      expect('"');
      const std::size_t first = at_;
      while (at_ < json_.size() && json_[at_] != '"') at_ += json_[at_] == '\\' ? 2 : 1;
      if (at_ >= json_.size()) stop("\"");
      return std::string(json_.substr(first, at_++ - first));
    }

    void skip_spaces() {
      while (at_ < json_.size() && std::string_view(" \t\n\r").find(json_[at_]) != std::string_view::npos) ++at_;
    }

    bool accept(char c) {
      skip_spaces();
      if (at_ >= json_.size() || json_[at_] != c) return false;
      ++at_;
      return true;
    }

    void expect(char c) {
      if (!accept(c)) stop(std::string(1, c));
    }

    [[noreturn]] void stop(const std::string& expected) const {
      target_.fail("byte " + std::to_string(at_) + " of its header: expected " + expected);
    }

    safetensors& target_;
    std::string_view json_;
    std::size_t at_ = 0;
  };

  void check(const std::string& name, const tensor& t) const {
    if (t.begin > t.end || t.end > data_.size()) fail(name + " lies outside the file");
    static const std::map<std::string_view, std::uint64_t> sizes = {
        {"F64", 8}, {"I64", 8}, {"U64", 8}, {"F32", 4}, {"I32", 4}, {"U32", 4}, {"F16", 2},
        {"BF16", 2}, {"I16", 2}, {"U16", 2}, {"I8", 1}, {"U8", 1}, {"BOOL", 1}};
    const auto size = sizes.find(t.dtype);
    if (size == sizes.end()) fail(name + " has the unknown element type " + t.dtype);
    std::uint64_t bytes = size->second;
    for (const std::uint64_t extent : t.shape) {
      if (__builtin_mul_overflow(bytes, extent, &bytes)) fail(name + " is larger than any file");
    }
    if (bytes != t.end - t.begin) fail(name + " of shape " + text(t.shape) + " does not fill its place in the file");
  }

  static std::string text(const std::vector<std::uint64_t>& shape) {
    std::string joined;
    for (const std::uint64_t extent : shape) joined += (joined.empty() ? "" : ", ") + std::to_string(extent);
    return "[" + joined + "]";
  }

  [[noreturn]] void fail(const std::string& problem) const {
    throw std::runtime_error(path_ + " cannot be used: " + problem);
  }

  std::string path_;
  mapped_file file_;
  std::string_view data_;
  std::map<std::string, tensor> tensors_;
};

}  // namespace semantic_search
