// Local response normalisation: one thread, one element; notation as in contract.py. Neighbouring threads have
// neighbouring pixels of one channel. A thread reads the channels of its window; the caches have them, for the threads
// of the channels beside have just read them.

// A plane is one channel of one image.
struct Norm {
    int N, C, plane, size;
};

// k + share · Σ_d x[d]² over the window of channel c, where x is channel 0 of the pixel and share = alpha / size
template <class T>
__device__ T scale_at(const T* x, int c, const Norm& g, T share, T k) {
    T scale = k;
    for (int d = max(0, c - g.size / 2); d <= min(g.C - 1, c + (g.size - 1) / 2); ++d) {
        const T value = x[d * g.plane];
        scale += share * value * value;
    }
    return scale;
}

// y = x · scale^(−beta)
template <class T>
__global__ void local_response_norm(const T* __restrict__ x, T* __restrict__ y, Norm g, T share, T beta, T k) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= g.N * g.C * g.plane) return;
    const int c = i / g.plane % g.C;
    y[i] = x[i] * pow(scale_at(x + (i - c * g.plane), c, g, share, k), -beta);
}

// The gradient's first half, two numbers for every element:
//     direct[e] = gy[e] · scale[e]^(−beta)        through[e] = gy[e] · x[e] · scale[e]^(−beta − 1)
template <class T>
__global__ void local_response_norm_scales(
    const T* __restrict__ gy, const T* __restrict__ x, T* __restrict__ direct, T* __restrict__ through,
    Norm g, T share, T beta, T k)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= g.N * g.C * g.plane) return;
    const int c = i / g.plane % g.C;
    const T scale = scale_at(x + (i - c * g.plane), c, g, share, k);
    direct[i] = gy[i] * pow(scale, -beta);
    through[i] = direct[i] * x[i] / scale;
}

// The second: gx_c = direct_c − factor · x_c · Σ_e through_e over the channels e that have c in their window
template <class T>
__global__ void local_response_norm_grad(
    const T* __restrict__ direct, const T* __restrict__ through, const T* __restrict__ x, T* __restrict__ gx,
    Norm g, T factor)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= g.N * g.C * g.plane) return;
    const int c = i / g.plane % g.C;
    T sum = 0;
    for (int e = max(0, c - (g.size - 1) / 2); e <= min(g.C - 1, c + g.size / 2); ++e) sum += through[i + (e - c) * g.plane];
    gx[i] = direct[i] - factor * x[i] * sum;
}
