# Written for the tests: builds `maskrcnn_benchmark._C`, with its CUDA part only where PyTorch sees a GPU.
import glob
import os

import torch
from setuptools import find_packages, setup
from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension

here = os.path.dirname(os.path.abspath(__file__))
csrc = os.path.join(here, "maskrcnn_benchmark", "csrc")
sources = glob.glob(os.path.join(csrc, "*.cpp")) + glob.glob(os.path.join(csrc, "cpu", "*.cpp"))
extension, macros = CppExtension, []
if torch.cuda.is_available() and CUDA_HOME is not None:
    extension, macros = CUDAExtension, [("WITH_CUDA", None)]
    sources += glob.glob(os.path.join(csrc, "cuda", "*.cu"))

setup(
    name="maskrcnn_benchmark",
    version="0.1",
    packages=find_packages(),
    ext_modules=[
        extension("maskrcnn_benchmark._C", sources, include_dirs=[csrc], define_macros=macros)
    ],
    cmdclass={"build_ext": BuildExtension},
)
