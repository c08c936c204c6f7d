// Written for the tests.
#pragma once
#include <torch/extension.h>

at::Tensor halve_cpu(const at::Tensor& x);
#ifdef WITH_CUDA
at::Tensor halve_cuda(const at::Tensor& x);
at::Tensor above_cuda(const at::Tensor& x, float threshold);
#endif

inline at::Tensor halve(const at::Tensor& x) {
  if (x.type().is_cuda()) {
#ifdef WITH_CUDA
    return halve_cuda(x);
#else
    AT_ERROR("Not compiled with GPU support");
#endif
  }
  return halve_cpu(x);
}
