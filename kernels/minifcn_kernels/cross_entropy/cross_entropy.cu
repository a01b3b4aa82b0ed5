// The per-pixel softmax cross-entropy: one thread, one pixel; notation as in contract.py. The logits of a pixel lie a
// plane apart, those of neighbouring pixels side by side: neighbouring threads go through the classes together.

struct Loss {
    int N, C, plane;  // plane = H·W
};

// The class of a pixel as an index that is safe to use: 0 for an ignored pixel, whose weight is 0.
__device__ __forceinline__ int class_of(long long target, int C) { return 0 <= target && target < C ? int(target) : 0; }

// v = weight[t] · mask, 0 where t is ignored. A target that is neither a class nor ignored raises `bad`.
template <class T>
__global__ void pixel_weights(
    const long long* __restrict__ target, const T* __restrict__ weight, const T* __restrict__ mask, T* __restrict__ v,
    int* __restrict__ bad, Loss g, long long ignore_index)
{
    const int pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= g.N * g.plane) return;
    const long long t = target[pixel];
    if (t != ignore_index && (t < 0 || t >= g.C)) atomicMax(bad, 1);  // the same, whoever comes first
    v[pixel] = t == ignore_index ? T(0) : weight[class_of(t, g.C)] * mask[pixel];
}

// The largest of a pixel's logits, and the sum of the exponentials of what the others lie below it. A NaN may not be the
// largest; its exponential brings it back.
template <class T>
struct Softmax {
    T largest, sum = 0;

    __device__ Softmax(const T* z, int C, int plane) : largest(z[0]) {
        for (int c = 1; c < C; ++c) largest = max(largest, z[c * plane]);
        for (int c = 0; c < C; ++c) sum += exp(z[c * plane] - largest);
    }
};

// loss = v · (log Σ_c exp z_c − z_t)
template <class T>
__global__ void pixel_losses(
    const T* __restrict__ logits, const long long* __restrict__ target, const T* __restrict__ v, T* __restrict__ loss, Loss g)
{
    const int pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= g.N * g.plane) return;
    const T* z = logits + pixel / g.plane * g.C * g.plane + pixel % g.plane;
    const Softmax<T> softmax(z, g.C, g.plane);
    // How far the target lies below the winner comes first: exact, or nearly, however large both are.
    const T below = softmax.largest - z[class_of(target[pixel], g.C) * g.plane];
    loss[pixel] = v[pixel] == 0 ? T(0) : v[pixel] * (log(softmax.sum) + below);
}

// g = u · (softmax(z)_c − [c = t]) with u = gy · v; gy has one element for each pixel, or one for all
template <class T>
__global__ void logit_gradients(
    const T* __restrict__ gy, const T* __restrict__ logits, const long long* __restrict__ target,
    const T* __restrict__ v, T* __restrict__ gradient, Loss g, bool per_pixel)
{
    const int pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= g.N * g.plane) return;
    const int first = pixel / g.plane * g.C * g.plane + pixel % g.plane;
    const T* z = logits + first;
    const Softmax<T> softmax(z, g.C, g.plane);
    const int t = class_of(target[pixel], g.C);
    const T u = gy[per_pixel ? pixel : 0] * v[pixel];
    for (int c = 0; c < g.C; ++c) {
        const T share = exp(z[c * g.plane] - softmax.largest) / softmax.sum;
        gradient[first + c * g.plane] = u == 0 ? T(0) : u * (share - T(c == t));
    }
}

// sums[block] = Σ x over the block's stretch of x, in float64 and always in the same order: each of the 256 threads adds
// every 256th element, then the sums of two halves are added until one is left.
template <class T, int STRETCH>
__global__ void __launch_bounds__(256) sum_stretches(const T* __restrict__ x, double* __restrict__ sums, int count) {
    constexpr int THREADS = 256;
    __shared__ double sum[THREADS];
    const int t = threadIdx.x, first = blockIdx.x * STRETCH, end = min(first + STRETCH, count);
    double mine = 0;
    for (int i = first + t; i < end; i += THREADS) mine += x[i];
    sum[t] = mine;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (t < half) sum[t] += sum[t + half];
    }
    if (t == 0) sums[blockIdx.x] = sum[0];
}
