// A device that is not the processor, for tests: its memory is the processor's own, but torch keeps
// the two apart as it does with an accelerator. Tensors of both are refused in one operation, and so
// are numbers of 64 bits, which some accelerators do not have. It computes what the processor would.
#include <set>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/native_batch_norm.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

namespace {

using at::Tensor;
using c10::IntArrayRef;
using Generator = std::optional<at::Generator>;

constexpr auto kType = c10::DeviceType::PrivateUse1;
const c10::Device kHere(kType, 0);

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = std::malloc(bytes ? bytes : 1);
    return {data, data, &std::free, kHere};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};
Memory memory;
REGISTER_ALLOCATOR(kType, &memory);

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::Stream stream() const { return c10::Stream(c10::Stream::DEFAULT, kHere); }
  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device) const override { return kHere; }
  c10::Device getDevice() const override { return kHere; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return stream(); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const override { return stream(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag)
      const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Numbers final : at::CPUGeneratorImpl {  // the same numbers as the processor's
  Numbers() { device_ = kHere; }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static auto made = at::make_generator<Numbers>();
    return made;
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::make_generator<Numbers>();
  }
  c10::Device getDeviceFromPtr(void*) const override { return kHere; }
  bool isAvailable() const override { return true; }
  bool isBuilt() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
};
const bool hooked = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  return true;
}();

// The same memory, as a tensor of the processor.
Tensor bare(const Tensor& t) {
  return at::from_blob(t.data_ptr(), t.sizes(), t.strides(), t.options().device(at::kCPU));
}

at::ScalarType checked(std::optional<at::ScalarType> dtype) {
  const auto given = c10::dtype_or_default(dtype);
  TORCH_CHECK_TYPE(given != at::kDouble, "this device does not support float64");
  return given;
}

Tensor empty(IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<at::Device>, std::optional<bool>,
             std::optional<at::MemoryFormat> format) {
  const auto keys = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(size, &memory, keys, checked(dtype), format);
}

Tensor empty_strided(IntArrayRef size, IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  const auto keys = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(size, stride, &memory, keys, checked(dtype));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  (to.is_cpu() ? to : bare(to)).copy_(from.is_cpu() ? from : bare(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  at::native::resize_(to, from.sizes(), std::nullopt);
  return copy_from(from, to, false);
}

at::Scalar item(const Tensor& t) { return bare(t).item(); }

Tensor& set_place(Tensor& t, at::Storage storage, int64_t offset, IntArrayRef size,
                  IntArrayRef stride) {
  return at::native::set_storage_cpu_(t, storage, offset, size, stride);
}

Tensor& set_whole(Tensor& t, at::Storage storage) {
  const int64_t count = storage.nbytes() / t.itemsize();
  return set_place(t, storage, 0, {count}, {});
}

// Kernels of the processor want a generator of its own: the state goes there and back.
template <typename Draw>
void drawn(const Generator& given, Draw&& draw) {
  if (!given) return draw(std::nullopt);
  TORCH_CHECK(given->device() == kHere, "Expected a '", kHere.type(),
              "' device type for generator but found '", given->device().type(), "'");
  auto own = at::make_generator<at::CPUGeneratorImpl>();
  own.set_state(given->get_state());
  draw(own);
  at::Generator(*given).set_state(own.get_state());
}

Tensor& normal(Tensor& t, double mean, double std, Generator given) {
  drawn(given, [&](Generator own) { bare(t).normal_(mean, std, own); });
  return t;
}
Tensor& uniform(Tensor& t, double low, double high, Generator given) {
  drawn(given, [&](Generator own) { bare(t).uniform_(low, high, own); });
  return t;
}
Tensor& random_from(Tensor& t, int64_t low, std::optional<int64_t> high, Generator given) {
  drawn(given, [&](Generator own) { bare(t).random_(low, high, own); });
  return t;
}
Tensor& random_to(Tensor& t, int64_t high, Generator given) {
  drawn(given, [&](Generator own) { bare(t).random_(high, own); });
  return t;
}
Tensor& randperm(int64_t n, Generator given, Tensor& out) {
  drawn(given, [&](Generator own) {
    const auto order = at::randperm(n, own, at::TensorOptions().dtype(out.scalar_type()));
    copy_from_and_resize(order, out);
  });
  return out;
}

std::optional<Tensor> bare(const std::optional<Tensor>& t) {
  return t && t->defined() ? std::optional(bare(*t)) : std::nullopt;
}

// Its running statistics are written to, which its signature does not say.
std::tuple<Tensor, Tensor, Tensor> batch_norm(
    const Tensor& x, const std::optional<Tensor>& gain, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& mean, const std::optional<Tensor>& variance, bool learning,
    double momentum, double eps) {
  const auto [y, m, s] = at::native_batch_norm(bare(x), bare(gain), bare(bias), bare(mean),
                                               bare(variance), learning, momentum, eps);
  return {y.to(kHere), m.to(kHere), s.to(kHere)};
}

Tensor convolution(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b,
                   IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, bool transposed,
                   IntArrayRef extra, int64_t groups) {
  return at::convolution(bare(x), bare(w), bare(b), stride, padding, dilation, transposed, extra,
                         groups)
      .to(kHere);
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& gradient, const Tensor& x, const Tensor& w, IntArrayRef stride,
    IntArrayRef padding, IntArrayRef dilation, bool transposed, IntArrayRef extra, int64_t groups,
    std::array<bool, 3> wanted) {
  const IntArrayRef bias{w.size(transposed ? 1 : 0)};
  const auto [x_, w_, b_] =
      at::convolution_backward(bare(gradient), bare(x), bare(w), bias, stride, padding, dilation,
                               transposed, extra, groups, wanted);
  const auto back = [](const Tensor& t) { return t.defined() ? t.to(kHere) : t; };
  return {back(x_), back(w_), back(b_)};
}

// Everything else: on the processor, if all tensors are here. Numbers without dimensions may be of
// the processor anywhere, and places in an index.
void elsewhere(const c10::OperatorHandle& op, c10::Stack* stack) {
  static const std::set<std::string> indexing = {"aten::index", "aten::index_put_",
                                                 "aten::_index_put_impl_"};
  const auto& schema = op.schema();
  bool mixed = false;
  const auto look = [&](const Tensor& t) { mixed |= t.defined() && t.is_cpu() && t.dim() > 0; };
  const auto inputs = torch::jit::last(*stack, schema.arguments().size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].isTensor() && !(i > 0 && indexing.count(schema.name()))) {
      look(inputs[i].toTensor());
    } else if (inputs[i].isTensorList()) {
      for (const Tensor& t : inputs[i].toTensorVector()) look(t);
    }
  }
  TORCH_CHECK(!mixed, "Expected all tensors to be on the same device, but found at least two "
              "devices, ", kHere, " and cpu! (", schema.name(), ")");
  at::native::cpu_fallback(op, stack, true);
}

}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&elsewhere>());
}
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFallthrough());
}
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &item);
  m.impl("set_.source_Storage", &set_whole);
  m.impl("set_.source_Storage_storage_offset", &set_place);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("unfold", &at::native::unfold);
  m.impl("resize_", &at::native::resize_);
  m.impl("normal_", &normal);
  m.impl("uniform_", &uniform);
  m.impl("random_.from", &random_from);
  m.impl("random_.to", &random_to);
  m.impl("randperm.generator_out", &randperm);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
  m.impl("native_batch_norm", &batch_norm);
  m.impl("native_group_norm", torch::CppFunction::makeFromBoxedFunction<&elsewhere>());
}
