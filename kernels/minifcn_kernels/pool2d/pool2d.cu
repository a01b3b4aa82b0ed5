// The pooling kernels: one thread, one output; notation as in contract.py. Neighbouring threads have neighbouring
// columns. The gradients gather: the thread of an input pixel looks up the windows that see it, so that no two threads
// add to one element, and the order of the sum is always the same.

// A plane is one channel of one image; `planes` = N·C.
struct Pool {
    int planes, H, W, OH, OW, R, S;
    int stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
};

// y = the largest of the window, index = its h·W + w. Of equal ones the first wins; the first NaN beats all.
template <class T>
__global__ void max_pool2d(const T* __restrict__ x, T* __restrict__ y, int* __restrict__ index, Pool g) {
    const int row = blockIdx.x * blockDim.y + threadIdx.y, j = blockIdx.y * blockDim.x + threadIdx.x;
    if (row >= g.planes * g.OH || j >= g.OW) return;
    const int top = row % g.OH * g.stride_h - g.padding_h, left = j * g.stride_w - g.padding_w;
    const T* plane = x + row / g.OH * g.H * g.W;
    T largest = 0;
    int winner = -1;  // none yet
    for (int r = 0; r < g.R; ++r) {
        const int h = top + r * g.dilation_h;
        if (h < 0 || h >= g.H) continue;
        for (int s = 0; s < g.S; ++s) {
            const int w = left + s * g.dilation_w;
            if (w < 0 || w >= g.W) continue;
            const T value = plane[h * g.W + w];
            // Not value > largest, which is false for a NaN. One that has won stays: it does not even equal itself.
            if (winner < 0 || (!(value <= largest) && largest == largest)) {
                largest = value;
                winner = h * g.W + w;
            }
        }
    }
    y[row * g.OW + j] = largest;
    index[row * g.OW + j] = winner;
}

// The windows that reach over an input position, along one axis: first to last. (A dilated one may jump over it.)
// Where the stride is known to the compiler, STRIDE > 0, it divides by shifting: a true division takes 20 instructions,
// as long as all the rest.
template <int STRIDE>
struct Windows {
    int first, last;

    __device__ Windows(int position, int outputs, int kernel, int stride_, int padding, int dilation) {
        const int stride = STRIDE > 0 ? STRIDE : stride_;
        const int reach = position + padding, behind = reach - dilation * (kernel - 1);
        first = behind > 0 ? (behind + stride - 1) / stride : 0;
        last = min(reach / stride, outputs - 1);
    }
};

// gx = Σ gy over the windows that this element won. An index that points outside of its plane raises `bad`.
template <class T, class Index, int STRIDE>
__global__ void max_pool2d_grad(
    const T* __restrict__ gy, const Index* __restrict__ index, T* __restrict__ gx, int* __restrict__ bad, Pool g)
{
    const int row = blockIdx.x * blockDim.y + threadIdx.y, w = blockIdx.y * blockDim.x + threadIdx.x;
    if (row >= g.planes * g.H || w >= g.W) return;
    const int plane = row / g.H, h = row % g.H;
    const Windows<STRIDE> rows(h, g.OH, g.R, g.stride_h, g.padding_h, g.dilation_h);
    const Windows<STRIDE> columns(w, g.OW, g.S, g.stride_w, g.padding_w, g.dilation_w);
    T sum = 0;
    for (int i = rows.first; i <= rows.last; ++i)
        for (int j = columns.first; j <= columns.last; ++j) {
            const int window = (plane * g.OH + i) * g.OW + j;
            const Index winner = index[window];
            if (winner == h * g.W + w) sum += gy[window];
            if (winner < 0 || winner >= g.H * g.W) atomicMax(bad, 1);  // the same, whoever comes first
        }
    gx[row * g.W + w] = sum;
}

// How many positions of window i along an axis its divisor counts: those in the padded input, or in the input.
__device__ __forceinline__ int counted(int i, int kernel, int stride, int padding, int size, bool include_pad) {
    const int first = i * stride - padding, end = first + kernel;
    return include_pad ? min(end, size + padding) - first : min(end, size) - max(first, 0);
}

// y = the window's sum / how many positions count
template <class T>
__global__ void avg_pool2d(const T* __restrict__ x, T* __restrict__ y, Pool g, bool include_pad) {
    const int row = blockIdx.x * blockDim.y + threadIdx.y, j = blockIdx.y * blockDim.x + threadIdx.x;
    if (row >= g.planes * g.OH || j >= g.OW) return;
    const int i = row % g.OH, top = i * g.stride_h - g.padding_h, left = j * g.stride_w - g.padding_w;
    const T* plane = x + row / g.OH * g.H * g.W;
    T sum = 0;
    for (int h = max(top, 0); h < min(top + g.R, g.H); ++h)
        for (int w = max(left, 0); w < min(left + g.S, g.W); ++w) sum += plane[h * g.W + w];
    const int rows = counted(i, g.R, g.stride_h, g.padding_h, g.H, include_pad);
    const int columns = counted(j, g.S, g.stride_w, g.padding_w, g.W, include_pad);
    y[row * g.OW + j] = sum / T(rows * columns);
}

// gx = Σ gy / how many positions count, over the windows that see this element
template <class T, int STRIDE>
__global__ void avg_pool2d_grad(const T* __restrict__ gy, T* __restrict__ gx, Pool g, bool include_pad) {
    const int row = blockIdx.x * blockDim.y + threadIdx.y, w = blockIdx.y * blockDim.x + threadIdx.x;
    if (row >= g.planes * g.H || w >= g.W) return;
    const int plane = row / g.H;
    const Windows<STRIDE> rows(row % g.H, g.OH, g.R, g.stride_h, g.padding_h, 1);
    const Windows<STRIDE> columns(w, g.OW, g.S, g.stride_w, g.padding_w, 1);
    T sum = 0;
    for (int i = rows.first; i <= rows.last; ++i)
        for (int j = columns.first; j <= columns.last; ++j) {
            const int pixels = counted(i, g.R, g.stride_h, g.padding_h, g.H, include_pad) *
                               counted(j, g.S, g.stride_w, g.padding_w, g.W, include_pad);
            sum += gy[(plane * g.OH + i) * g.OW + j] / T(pixels);
        }
    gx[row * g.W + w] = sum;
}
