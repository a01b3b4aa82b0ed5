// Small kernels for the launcher's tests.
struct Size {
    int rows, columns;
};

/* y = a·x + b, which
   the launcher's tests rely on */
template <typename T, int REPEAT>
__global__ void __launch_bounds__((REPEAT) * 256) axpb(T a, const T* __restrict__ x, double b, T* __restrict__ y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;  // one thread, one number
    if (i < n) y[i] = a * x[i] + T(b);
}

__global__ void transpose(const int* x, int* y, const Size size) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row < size.rows && column < size.columns) y[column * size.rows + row] = x[row * size.columns + column];
}

__global__ void types(bool a, unsigned char b, short c, unsigned d, long long e, float f, const unsigned char* g, double* y) {
    y[0] = a, y[1] = b, y[2] = c, y[3] = d, y[4] = e, y[5] = f, y[6] = g[0];
}

__global__ void shared(float* y) {
    extern __shared__ float smem[];
    smem[threadIdx.x] = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = smem[blockDim.x - 1 - threadIdx.x];
}

__global__ void roomy(float* y) {
    __shared__ float tile[4096];
    tile[threadIdx.x] = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

__global__ void beside(float* y) { y[1] = 1; }

__global__ void nothing(int n) {}
