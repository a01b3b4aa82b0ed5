"""CUDA kernels: one ``.cu`` file, run by CuPy on a GPU or by an emulator on the CPU.

`launch.CudaSource` launches a kernel of a ``.cu`` file on whatever its arrays are: CuPy arrays go to the GPU, NumPy
arrays to the emulator, which compiles the very same file with g++. `emulator` explains how, and what it can find.

Learners start at the command line: ``python -m minifcn_kernels.cuda check | coalescing | debug conv2d``.
"""
