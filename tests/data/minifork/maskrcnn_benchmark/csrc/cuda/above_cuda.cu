// Written for the tests: a mask in memory of its own, made on the default stream and copied to the host.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>

#include <THC/THC.h>
#include <THC/THCDeviceUtils.cuh>

#include <vector>

int const threads_per_block = 64;

__global__ void above_kernel(const int n, const float* x, const float threshold, unsigned char* mask) {
  const int i = blockIdx.x * threads_per_block + threadIdx.x;
  if (i < n) {
    mask[i] = x[i] > threshold;
  }
}

at::Tensor above_cuda(const at::Tensor& x, float threshold) {
  AT_ASSERTM(x.type().is_cuda(), "x must be a CUDA tensor");
  const int n = x.numel();
  const int blocks = THCCeilDiv(n, threads_per_block);
  THCState* state = at::globalContext().lazyInitCUDA();  // a handle that is gone

  unsigned char* mask = (unsigned char*)THCudaMalloc(state, n * sizeof(unsigned char));
  above_kernel<<<blocks, threads_per_block>>>(n, x.data<float>(), threshold, mask);
  std::vector<unsigned char> host(n);
  THCudaCheck(cudaMemcpy(&host[0], mask, n * sizeof(unsigned char), cudaMemcpyDeviceToHost));
  THCudaFree(state, mask);

  auto result = at::empty({n}, at::kByte);
  for (int i = 0; i < n; i++) {
    result.data<unsigned char>()[i] = host[i];
  }
  return result;
}
