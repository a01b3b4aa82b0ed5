// The cropping kernels: one thread, one output; notation as in contract.py. Neighbouring threads read and write neighbours
// of a row, so that a warp's 32 accesses are one or two of the memory's 128-byte lines.

// A plane is one channel of one image; `planes` = N·C.
struct Crop {
    int planes, H, W, OH, OW, top, left;
};

// y[plane, i, j] = x[plane, top + i, left + j]
template <class T>
__global__ void crop(const T* __restrict__ x, T* __restrict__ y, Crop g) {
    const int row = blockIdx.x * blockDim.y + threadIdx.y, j = blockIdx.y * blockDim.x + threadIdx.x;
    if (row >= g.planes * g.OH || j >= g.OW) return;
    const int plane = row / g.OH, i = row % g.OH;
    y[row * g.OW + j] = x[(plane * g.H + g.top + i) * g.W + g.left + j];
}

// gx[plane, h, w] = gy[plane, h − top, w − left], and zero outside of the crop: every element is written, once.
template <class T>
__global__ void crop_grad(const T* __restrict__ gy, T* __restrict__ gx, Crop g) {
    const int row = blockIdx.x * blockDim.y + threadIdx.y, w = blockIdx.y * blockDim.x + threadIdx.x;
    if (row >= g.planes * g.H || w >= g.W) return;
    const int plane = row / g.H, i = row % g.H - g.top, j = w - g.left;
    const bool inside = 0 <= i && i < g.OH && 0 <= j && j < g.OW;
    gx[row * g.W + w] = inside ? gy[(plane * g.OH + i) * g.OW + j] : T(0);
}

// y[plane, i, j] = coarse[plane, i, j] + fine[plane, top + i, left + j]
template <class T>
__global__ void fuse(const T* __restrict__ coarse, const T* __restrict__ fine, T* __restrict__ y, Crop g) {
    const int row = blockIdx.x * blockDim.y + threadIdx.y, j = blockIdx.y * blockDim.x + threadIdx.x;
    if (row >= g.planes * g.OH || j >= g.OW) return;
    const int plane = row / g.OH, i = row % g.OH;
    y[row * g.OW + j] = coarse[row * g.OW + j] + fine[(plane * g.H + g.top + i) * g.W + g.left + j];
}
