// Written for the tests: the calls of a kernel with an explicit stream, and an atomic addition.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>

#include <THC/THC.h>
#include <THC/THCAtomics.cuh>
#include <THC/THCDeviceUtils.cuh>

template <typename T>
__global__ void halve_kernel(const int64_t n, const T* x, T* y) {
  for (int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += blockDim.x * gridDim.x) {
    atomicAdd(y + i, x[i] / 2);
  }
}

at::Tensor halve_cuda(const at::Tensor& x) {
  AT_ASSERTM(x.type().is_cuda(), "x must be a CUDA tensor");
  auto y = at::zeros_like(x);
  dim3 grid(std::min(THCCeilDiv((long)x.numel(), 512L), 4096L));
  cudaStream_t stream = at::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(x.type(), "halve", [&] {
    halve_kernel<scalar_t><<<grid, 512, 0, stream>>>(
        x.numel(), x.contiguous().data<scalar_t>(), y.data<scalar_t>());
  });
  THCudaCheck(cudaGetLastError());
  return y;
}
