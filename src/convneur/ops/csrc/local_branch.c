/* The CPU kernel of ops/local_branch.py. Arrays are float32; feature maps are (batch, height, width, channels),
 * contiguous. Weights of a linear layer are prepacked: PANEL outputs lie side by side, one input after the other, and the
 * last panel is padded with zeros.
 *
 * This is compiled twice, for AVX2 and for AVX-512. Threads are PyTorch's: the OpenMP symbols are resolved in the process.
 */
#include <omp.h>

#define UNROLL _Pragma("GCC unroll 32")
#ifdef __AVX512F__
#define NAMED(name) name##_avx512
enum { LANES = 16, ROWS = 14 }; /* 28 sums and what is multiplied, in 32 registers */
#else
#define NAMED(name) name##_avx2
enum { LANES = 8, ROWS = 6 }; /* 12 sums, in 16 */
#endif
enum {
    PANEL = 2 * LANES,
    KERNEL = 7,
    BORDER = KERNEL / 2,
    STRIP = 7,   /* pixels of a row that the depthwise convolution makes together; with seven weights, in 16 registers */
    APART = 16,  /* numbers between rows, or rows of some widths would all lie in the same few sets of a cache */
    DEGREE = 16
};
#include "vec.h"

/* The upper tail of the normal distribution at `size`, 0 to FAR, as a polynomial of 2 size / FAR - 1: minimax, `size`
 * times its error is below 4e-8. benchmarks/gelu_tail.py gives them. */
#define FAR 5.5f
static const float TAIL[DEGREE + 1] = {
    0.0029797698f, -0.02500753f, 0.09455797f, -0.206834f, 0.27190346f,
    -0.17681094f, -0.05165343f, 0.21635148f, -0.16135879f, -0.028763453f,
    0.12784931f, -0.058672763f, -0.034842435f, 0.03763655f, -0.0016192307f,
    -0.007899715f, 0.0021837638f
};

INLINE vec gelu(vec x) {
    vec size = (vec)((ivec)x & 0x7fffffff), tail = {0};
    const ivec beyond = size > FAR; /* not where x is no number, so that it stays none */
    size = (vec)(((ivec)size & ~beyond) | ((ivec)((vec){0} + FAR) & beyond));
    const vec place = size * (2 / FAR) - 1.0f;
    UNROLL for (int i = DEGREE; i >= 0; i--) tail = tail * place + TAIL[i];
    return (vec)((ivec)x & (x > 0.0f)) - size * tail;
}

/* LayerNorm of a row, in place, without gain and bias. */
INLINE void layer_norm(float *row, int64_t width, float eps) {
    const int64_t even = width / LANES * LANES;
    vec total = {0}, left = {0}, squares = {0};
    for (int64_t j = 0; j < even; j += LANES) total += load(row + j);
    float mean = sum(total), rest = 0, square = 0;
    for (int64_t j = even; j < width; j++) mean += row[j];
    mean /= (float)width;
    for (int64_t j = 0; j < even; j += LANES) {
        const vec x = load(row + j) - mean;
        left += x, squares += x * x;
        store(row + j, x);
    }
    for (int64_t j = even; j < width; j++) row[j] -= mean, rest += row[j], square += row[j] * row[j];
    /* Rounding leaves a small mean. Where all numbers are nearly the same, the scale would amplify it. */
    mean = (sum(left) + rest) / (float)width;
    const float variance = (sum(squares) + square) / (float)width - mean * mean;
    const float scale = 1 / sqrtf((variance < 0 ? 0 : variance) + eps); /* NaN stays NaN */
    for (int64_t j = 0; j < even; j += LANES) store(row + j, (load(row + j) - mean) * scale);
    for (int64_t j = even; j < width; j++) row[j] = (row[j] - mean) * scale;
}

/* What is applied to the result of a matmul. */
typedef enum { IDENTITY, GELU } activation;

/* One product of a few rows with one panel. `rows`, `columns` (of LANES) and `next` are constants where it is called, so
 * that the sums stay in registers. */
INLINE void tile(const float *a, int64_t a_row, int64_t depth, const float *panel, const float *bias, const float *onto,
                 float *out, int64_t out_row, const int rows, const int columns, const activation next) {
    vec sums[ROWS][2];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < columns; j++) sums[i][j] = load(bias + j * LANES);
    for (int64_t k = 0; k < depth; k++) {
        vec w[2];
        UNROLL for (int j = 0; j < columns; j++) w[j] = load(panel + k * PANEL + j * LANES);
        UNROLL for (int i = 0; i < rows; i++)
            UNROLL for (int j = 0; j < columns; j++) sums[i][j] += a[i * a_row + k] * w[j];
    }
    if (onto)
        UNROLL for (int i = 0; i < rows; i++)
            UNROLL for (int j = 0; j < columns; j++) sums[i][j] += load(onto + i * out_row + j * LANES);
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < columns; j++) store(out + i * out_row + j * LANES, sums[i][j]);
    if (next == GELU) /* from memory: it takes the registers that the sums were in */
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns; j++) {
                float *at = out + i * out_row + j * LANES;
                store(at, gelu(load(at)));
            }
}

#define OF(n)                                                                                         \
    case n:                                                                                           \
        if (columns == 2)                                                                             \
            tile(a, a_row, depth, panel, bias, onto, out, out_row, n, 2, next);                       \
        else                                                                                          \
            tile(a, a_row, depth, panel, bias, onto, out, out_row, n, 1, next);                       \
        break;
INLINE void some_rows(const float *a, int64_t a_row, int64_t depth, const float *panel, const float *bias,
                      const float *onto, float *out, int64_t out_row, int64_t rows, int64_t columns, const activation next) {
    switch (rows) {
        OF(1) OF(2) OF(3) OF(4) OF(5) OF(6)
#ifdef __AVX512F__
        OF(7) OF(8) OF(9) OF(10) OF(11) OF(12) OF(13) OF(14)
#endif
    }
}

/* out (height, width) = next(a (height, depth) weight + bias) [+ onto]; a weight in panels, and what is not a multiple of
 * LANES in width by a detour, as rows lie side by side. onto is as out. */
INLINE void matmul(const float *a, int64_t a_row, int64_t height, int64_t depth, const float *weight, const float *bias,
                    int64_t width, const float *onto, float *out, int64_t out_row, const activation next) {
    const int64_t parts = (height + ROWS - 1) / ROWS;
    float detour[ROWS * PANEL];
    for (int64_t j = 0; j < width; j += PANEL, weight += depth * PANEL)
        for (int64_t part = 0; part < parts; part++) {
            const int64_t first = height * part / parts, rows = height * (part + 1) / parts - first;
            const int64_t columns = width - j > LANES ? 2 : 1, left = width - j;
            const float *from = a + first * a_row, *base = onto ? onto + first * out_row + j : 0;
            float *to = out + first * out_row + j;
            if (left >= columns * LANES) {
                some_rows(from, a_row, depth, weight, bias + j, base, to, out_row, rows, columns, next);
                continue;
            }
            some_rows(from, a_row, depth, weight, bias + j, 0, detour, PANEL, rows, columns, next);
            for (int64_t i = 0; i < rows; i++)
                for (int64_t c = 0; c < left; c++)
                    to[i * out_row + c] = detour[i * PANEL + c] + (base ? base[i * out_row + c] : 0);
        }
}

/* The depthwise convolution of `count` pixels of one row of an image (height, width, channels), a constant where it is
 * called. filters (KERNEL, KERNEL, channels). The last channels overlap the ones before where C is no multiple of LANES. */
INLINE void strip(const float *image, const float *filters, const float *bias, float *out, int64_t out_row,
                  int64_t height, int64_t width, int64_t channels, int64_t row, int64_t column, const int count) {
    for (int64_t j = 0; j < channels; j += LANES) {
        const int64_t c = j + LANES <= channels ? j : channels - LANES;
        vec sums[STRIP], w[KERNEL];
        UNROLL for (int p = 0; p < count; p++) sums[p] = load(bias + c);
        for (int64_t down = 0; down < KERNEL; down++) {
            const int64_t line = row + down - BORDER;
            if (line < 0 || line >= height) continue;
            UNROLL for (int i = 0; i < KERNEL; i++) w[i] = load(filters + (down * KERNEL + i) * channels + c);
            UNROLL for (int i = 0; i < count + KERNEL - 1; i++) {
                const int64_t at = column + i - BORDER;
                if (at < 0 || at >= width) continue;
                const vec x = load(image + (line * width + at) * channels + c);
                UNROLL for (int p = 0; p < count; p++)
                    if (i - p >= 0 && i - p < KERNEL) sums[p] += x * w[i - p];
            }
        }
        UNROLL for (int p = 0; p < count; p++) store(out + p * out_row + c, sums[p]);
    }
}

#define STRIP_OF(n)                                                                                   \
    case n:                                                                                           \
        strip(image, filters, bias, out, out_row, height, width, channels, row, column, n);           \
        break;
/* That of pixels `first` to `first` + `count` of all images. */
INLINE void depthwise(const float *x, const float *filters, const float *bias, float *out, int64_t out_row,
                      int64_t height, int64_t width, int64_t channels, int64_t first, int64_t count) {
    while (count > 0) {
        const int64_t row = first / width % height, column = first % width;
        const float *image = x + first / (height * width) * height * width * channels;
        int64_t some = width - column < count ? width - column : count;
        some /= (some + STRIP - 1) / STRIP; /* strips of nearly one length */
        switch (some) { STRIP_OF(1) STRIP_OF(2) STRIP_OF(3) STRIP_OF(4) STRIP_OF(5) STRIP_OF(6) STRIP_OF(7) }
        first += some, count -= some, out += some * out_row;
    }
}

/* out = fc2(gelu(fc1(layer_norm(depthwise(x))))) [+ x]: filters (KERNEL, KERNEL, channels); fc1 to `hidden`, fc2 back;
 * biases are padded as the weights are. channels is LANES or more. Each of `threads` takes `group` pixels at a time, and
 * of `workspace` group (channels + hidden + 2 APART) numbers. */
void NAMED(convneur_local_branch)(const float *x, const float *filters, const float *filter_bias, const float *fc1,
                                  const float *bias1, const float *fc2, const float *bias2, float *out,
                                  float *workspace, int64_t residual, int64_t threads, int64_t batch, int64_t height,
                                  int64_t width, int64_t channels, int64_t hidden, int64_t group, float eps) {
    const int64_t pixels = batch * height * width, row = channels + APART, hidden_row = hidden + APART;
#pragma omp parallel num_threads(threads)
    {
        const int64_t mine = omp_get_thread_num(), all = omp_get_num_threads();
        const int64_t begin = pixels * mine / all, here = pixels * (mine + 1) / all - begin;
        const int64_t groups = (here + group - 1) / group;
        float *unit = workspace + mine * group * (row + hidden_row), *between = unit + group * row;
        for (int64_t g = 0; g < groups; g++) {
            const int64_t first = begin + here * g / groups, count = begin + here * (g + 1) / groups - first;
            depthwise(x, filters, filter_bias, unit, row, height, width, channels, first, count);
            for (int64_t p = 0; p < count; p++) layer_norm(unit + p * row, channels, eps);
            matmul(unit, row, count, channels, fc1, bias1, hidden, 0, between, hidden_row, GELU);
            matmul(between, hidden_row, count, hidden, fc2, bias2, channels, residual ? x + first * channels : 0,
                    out + first * channels, channels, IDENTITY);
        }
    }
}
