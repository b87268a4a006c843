/* The CPU kernel of ops/global_branch.py. Arrays are float32 and contiguous. Feature maps are (batch, height, width,
 * channels), weights as PyTorch has them, (outputs, inputs). In here it is transposed: a row for each channel, a column
 * for each token. So tokens lie side by side in a vector, and the weights need no packing. A tile is some vectors of
 * tokens of one image; columns beyond the last token are padding.
 *
 * This is compiled twice, for AVX2 and for AVX-512. Threads are PyTorch's: the OpenMP symbols are resolved in the process.
 */
#include <omp.h>

#define UNROLL _Pragma("GCC unroll 16")
#ifdef __AVX512F__
#define NAMED(name) name##_avx512
enum { LANES = 16, ROWS = 8 }; /* by two vectors: 16 sums, in 32 registers */
#else
#define NAMED(name) name##_avx2
enum { LANES = 8, ROWS = 4 }; /* 8 sums, in 16 */
#endif
enum { SIDE = 4, TILE = 128 / LANES }; /* sums that `outer` makes along each side; vectors of a tile */
#include "vec.h"

/* As in ops/global_branch.py. */
typedef struct {
    const float *x, *down, *down_bias, *norm_gain, *norm_bias, *keys, *values, *steps, *steps_bias, *proj, *gain,
        *token_gain, *up, *up_bias, *shift, *shift_bias;
    float *gates, *shifts, *workspace;
    int64_t batch, height, width, channels, stride, grid_height, grid_width, memory_width, heads, tiles, threads;
    float sharpness, eps;
} arguments;

INLINE vec inverse_root(vec x) {
    for (int i = 0; i < LANES; i++) x[i] = 1 / sqrtf(x[i]);
    return x;
}

INLINE float sigmoid(float x) { return 1 / (1 + expf(-x)); }

INLINE vec larger(vec x, vec y) {
    const ivec first = x > y;
    return (vec)(((ivec)x & first) | ((ivec)y & ~first));
}

INLINE float largest(vec x) {
    float found = x[0];
    for (int i = 1; i < LANES; i++) found = x[i] > found ? x[i] : found;
    return found;
}

/* exp of numbers up to 0, to a relative error of 1e-7: 2^n exp(rest), n whole and rest within ln(2) / 2. Below -87 it is
 * 0, and what is no number stays none. */
INLINE vec exp_negative(vec x) {
    const float rounding = 12582912.0f; /* 1.5 * 2^23: numbers around it are whole */
    const vec shifted = x * 1.44269504f + rounding, n = shifted - rounding;
    const vec rest = x - n * 0.693359375f + n * 2.12194440e-4f; /* ln(2) in two parts */
    vec power = (vec){0} + 1.9875691500e-4f;
    power = power * rest + 1.3981999507e-3f;
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    power = power * rest * rest + rest + 1.0f;
    const uvec scaled = (uvec)power + (((uvec)shifted - (uvec)((vec){0} + rounding)) << 23);
    return (vec)(((ivec)scaled & (x >= -87.0f)) | ((ivec)x & (x != x)));
}

INLINE void tile(const float *a, int64_t down, int64_t along, const float *b, int64_t row, const float *bias, float *out,
                 int64_t depth, const int rows, const int columns) {
    vec sums[ROWS][2];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < columns; j++) sums[i][j] = (vec){0} + (bias ? bias[i] : 0);
    for (int64_t k = 0; k < depth; k++) {
        vec of_b[2];
        UNROLL for (int j = 0; j < columns; j++) of_b[j] = load(b + k * row + j * LANES);
        UNROLL for (int i = 0; i < rows; i++)
            UNROLL for (int j = 0; j < columns; j++) sums[i][j] += a[i * down + k * along] * of_b[j];
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < columns; j++) store(out + i * row + j * LANES, sums[i][j]);
}

/* out (height x tokens) = a (height x depth) b (depth x tokens) + bias (height). The next row of a is `down` further,
 * the next column `along`; the next row of b and out is `row` further. */
INLINE void matmul(const float *a, int64_t down, int64_t along, const float *b, int64_t row, const float *bias,
                    float *out, int64_t height, int64_t depth, int64_t tokens) {
    for (int64_t t = 0; t < tokens;) {
        const int64_t columns = tokens - t >= 2 * LANES ? 2 : 1;
        for (int64_t i = 0; i < height;) {
            const int64_t rows = height - i >= ROWS ? ROWS : height - i >= 4 ? 4 : 1;
            const float *left = a + i * down, *add = bias ? bias + i : 0;
            float *to = out + i * row + t;
#define OF(n, m) tile(left, down, along, b + t, row, add, to, depth, n, m)
            if (columns == 2) {
                if (rows == ROWS) OF(ROWS, 2);
                else if (rows == 4) OF(4, 2);
                else OF(1, 2);
            } else {
                if (rows == ROWS) OF(ROWS, 1);
                else if (rows == 4) OF(4, 1);
                else OF(1, 1);
            }
#undef OF
            i += rows;
        }
        t += columns * LANES;
    }
}

static void linear(const float *a, const float *b, int64_t row, const float *bias, float *out, int64_t height,
                   int64_t depth, int64_t tokens) {
    matmul(a, depth, 1, b, row, bias, out, height, depth, tokens);
}

INLINE void corner(const float *a, const float *b, int64_t row, int64_t tokens, float *out, int64_t out_row,
                   const int rows, const int columns) {
    vec sums[SIDE][SIDE];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < columns; j++) sums[i][j] = (vec){0};
    for (int64_t t = 0; t < tokens; t += LANES) {
        vec of_b[SIDE];
        UNROLL for (int j = 0; j < columns; j++) of_b[j] = load(b + j * row + t);
        UNROLL for (int i = 0; i < rows; i++) {
            const vec of_a = load(a + i * row + t);
            UNROLL for (int j = 0; j < columns; j++) sums[i][j] += of_a * of_b[j];
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < columns; j++) out[i * out_row + j] = sum(sums[i][j]);
}

/* out (side x side) = a (side x tokens) b (side x tokens) transposed. */
static void outer(const float *a, const float *b, int64_t row, int64_t tokens, float *out, int64_t side) {
    for (int64_t i = 0; i < side;) {
        const int64_t rows = side - i >= SIDE ? SIDE : 1;
        for (int64_t j = 0; j < side;) {
            const int64_t columns = side - j >= SIDE ? SIDE : 1;
            const float *left = a + i * row, *right = b + j * row;
            float *to = out + i * side + j;
            if (rows == SIDE && columns == SIDE) corner(left, right, row, tokens, to, side, SIDE, SIDE);
            else if (rows == SIDE) corner(left, right, row, tokens, to, side, SIDE, 1);
            else if (columns == SIDE) corner(left, right, row, tokens, to, side, 1, SIDE);
            else corner(left, right, row, tokens, to, side, 1, 1);
            j += columns;
        }
        i += rows;
    }
}

/* (count, channels) -> (channels, count), whose rows are `row` apart, and back. */
INLINE void transpose_in(const float *from, float *to, int64_t row, int64_t count, int64_t channels) {
    for (int64_t j = 0; j < channels; j++)
        for (int64_t t = 0; t < count; t++) to[j * row + t] = from[t * channels + j];
}

INLINE void transpose_out(const float *from, int64_t row, float *to, int64_t count, int64_t channels) {
    for (int64_t t = 0; t < count; t++)
        for (int64_t j = 0; j < channels; j++) to[t * channels + j] = from[j * row + t];
}

/* The mean of the pixels of each token, `count` tokens from `first` on. */
INLINE void pool(const arguments *g, const float *map, int64_t first, int64_t count, float *means) {
    const int64_t channels = g->channels;
    for (int64_t t = 0; t < count; t++) {
        const int64_t y = (first + t) / g->grid_width * g->stride, x = (first + t) % g->grid_width * g->stride;
        const int64_t bottom = y + g->stride < g->height ? y + g->stride : g->height;
        const int64_t right = x + g->stride < g->width ? x + g->stride : g->width;
        const float share = 1.0f / (float)((bottom - y) * (right - x));
        float *mean = means + t * channels;
        memset(mean, 0, channels * sizeof(float));
        for (int64_t i = y; i < bottom; i++)
            for (int64_t j = x; j < right; j++) {
                const float *pixel = map + (i * g->width + j) * channels;
                for (int64_t c = 0; c < channels; c++) mean[c] += pixel[c];
            }
        for (int64_t c = 0; c < channels; c++) mean[c] *= share;
    }
}

/* One over the root of the mean square of each column of x (numbers x tokens). */
INLINE vec scales(const float *x, int64_t row, int64_t numbers, float eps) {
    vec squares = {0};
    for (int64_t j = 0; j < numbers; j++) squares += load(x + j * row) * load(x + j * row);
    return inverse_root(squares / (float)numbers + eps);
}

/* What is at hand while the kernel runs. `row` floats lie between two channels of a tile. Per tile: tokens, logits of its
 * keys, what it wrote alone, sums of the tokens less its first, and per slot the largest logit and the sum of weights; per image: the
 * written memory. a and b are a thread's own. */
typedef struct {
    int64_t row, tasks, vectors;
    float *tokens, *logits, *parts, *sums, *largest, *totals, *memories, *a, *b;
} buffers;

typedef struct {
    int64_t task, image, first, real, count; /* tokens: the first, those there are, and with padding */
} tile_of;

INLINE tile_of tile_at(const arguments *g, const buffers *w, int64_t task) {
    const int64_t number = task % g->tiles, tokens = g->grid_height * g->grid_width;
    const int64_t from = w->vectors * number / g->tiles * LANES, to = w->vectors * (number + 1) / g->tiles * LANES;
    return (tile_of){task, task / g->tiles, from, (to < tokens ? to : tokens) - from, to - from};
}

/* tokens = down(pool(x)), and the sum of their differences to the first. */
static void make_tokens(const arguments *g, const buffers *w, tile_of at) {
    const int64_t D = g->memory_width, C = g->channels, row = w->row;
    const float *x = g->x + at.image * g->height * g->width * C;
    for (int64_t t = 0; t < at.count; t += LANES) {
        const int64_t count = at.real - t < LANES ? at.real - t : LANES;
        if (count < LANES)
            for (int64_t j = 0; j < C; j++) store(w->a + j * row + t, (vec){0});
        if (g->stride > 1) pool(g, x, at.first + t, count, w->b);
        transpose_in(g->stride > 1 ? w->b : x + (at.first + t) * C, w->a + t, row, count, C);
    }
    float *tokens = w->tokens + at.task * D * row;
    linear(g->down, w->a, row, g->down_bias, tokens, D, C, at.count);
    for (int64_t j = 0; j < D; j++) {
        vec total = {0};
        for (int64_t t = at.real; t < at.count; t++) tokens[j * row + t] = tokens[j * row];
        for (int64_t t = 0; t < at.count; t += LANES) total += load(tokens + j * row + t) - tokens[j * row];
        w->sums[at.task * D + j] = sum(total);
    }
}

/* a = layer_norm(tokens - their mean over the image). Means are of differences to the first token, so that they are zero
 * where all tokens are the same. */
static void normalize(const arguments *g, const buffers *w, tile_of at) {
    const int64_t D = g->memory_width, row = w->row;
    const float *tokens = w->tokens + at.task * D * row;
    for (int64_t j = 0; j < D; j++) {
        const float *first = w->tokens + (at.image * g->tiles * D + j) * row;
        float total = 0;
        for (int64_t i = 0; i < g->tiles; i++) {
            const tile_of tile = tile_at(g, w, at.image * g->tiles + i);
            total += w->sums[tile.task * D + j] + (float)tile.real * (first[i * D * row] - *first);
        }
        const float mean = total / (float)(g->grid_height * g->grid_width);
        for (int64_t t = 0; t < at.count; t += LANES)
            store(w->a + j * row + t, load(tokens + j * row + t) - *first - mean);
    }
    for (int64_t t = 0; t < at.count; t += LANES) {
        vec mean = {0}, squares = {0};
        for (int64_t j = 0; j < D; j++) mean += load(w->a + j * row + t);
        mean /= (float)D;
        for (int64_t j = 0; j < D; j++) {
            const vec x = load(w->a + j * row + t) - mean;
            squares += x * x;
            store(w->a + j * row + t, x);
        }
        const vec scale = inverse_root(squares / (float)D + g->eps);
        for (int64_t j = 0; j < D; j++)
            store(w->a + j * row + t, load(w->a + j * row + t) * scale * g->norm_gain[j] + g->norm_bias[j]);
    }
}

/* Turn the logits of a slot into weights over the tokens of a tile: exp(logit - largest), 0 for padding. */
INLINE void slot_weights(const float *logits, float *weights, int64_t real, int64_t count, float *most, float *total) {
    float top = logits[0];
    vec tops = (vec){0} + top, sums = {0};
    const int64_t full = real / LANES * LANES;
    for (int64_t t = 0; t < full; t += LANES) tops = larger(load(logits + t), tops);
    top = largest(tops);
    for (int64_t t = full; t < real; t++) top = logits[t] > top ? logits[t] : top;
    for (int64_t t = 0; t < count; t += LANES) {
        vec weight = exp_negative(load(logits + t) - top);
        for (int i = 0; t + LANES > real && i < LANES; i++)
            if (t + i >= real) weight[i] = 0;
        sums += weight;
        store(weights + t, weight);
    }
    *most = top, *total = sum(sums);
}

/* Keys of a tile, and what the memory would be of its tokens alone, not yet divided by the sum of weights. */
static void write_tile(const arguments *g, const buffers *w, tile_of at) {
    const int64_t D = g->memory_width, H = g->heads, d = D / H, row = w->row;
    float *logits = w->logits + at.task * D * row, *values = w->b, *steps = w->b + D * row, *weights = w->a;
    normalize(g, w, at);
    linear(g->keys, w->a, row, 0, logits, D, D, at.count);
    linear(g->values, w->a, row, 0, values, D, D, at.count);
    linear(g->steps, w->a, row, g->steps_bias, steps, H, D, at.count);
    for (int64_t h = 0; h < H; h++)
        for (int64_t t = 0; t < at.count; t++) steps[h * row + t] = sigmoid(steps[h * row + t]);
    for (int64_t j = 0; j < D; j++) {
        float *logit = logits + j * row;
        for (int64_t t = 0; t < at.count; t += LANES) {
            store(logit + t, load(logit + t) * g->sharpness);
            store(values + j * row + t, load(values + j * row + t) * load(steps + j / d * row + t));
        }
        slot_weights(logit, weights + j * row, at.real, at.count, w->largest + at.task * D + j, w->totals + at.task * D + j);
    }
    for (int64_t h = 0; h < H; h++)
        outer(weights + h * d * row, values + h * d * row, row, at.count, w->parts + (at.task * D + h * d) * d, d);
}

/* Slot i of an image's memory, of all tiles. */
static void join_tiles(const arguments *g, const buffers *w, int64_t image, int64_t i) {
    const int64_t D = g->memory_width, d = D / g->heads, first = image * g->tiles;
    float *memory = w->memories + (image * D + i) * d, top = w->largest[first * D + i], total = 0;
    for (int64_t tile = first + 1; tile < first + g->tiles; tile++)
        if (w->largest[tile * D + i] > top) top = w->largest[tile * D + i];
    memset(memory, 0, d * sizeof(float));
    for (int64_t tile = first; tile < first + g->tiles; tile++) {
        const float *part = w->parts + (tile * D + i) * d, share = expf(w->largest[tile * D + i] - top);
        total += share * w->totals[tile * D + i];
        for (int64_t j = 0; j < d; j++) memory[j] += share * part[j];
    }
    for (int64_t j = 0; j < d; j++) memory[j] /= total;
}

/* Weights over the slots of a head: softmax of the logits (d x tokens). */
INLINE void token_weights(const float *logits, float *weights, int64_t row, int64_t d, int64_t count) {
    for (int64_t t = 0; t < count; t += LANES) {
        vec top = load(logits + t), total = {0};
        for (int64_t j = 1; j < d; j++) top = larger(load(logits + j * row + t), top);
        for (int64_t j = 0; j < d; j++) {
            const vec weight = exp_negative(load(logits + j * row + t) - top);
            total += weight;
            store(weights + j * row + t, weight);
        }
        for (int64_t j = 0; j < d; j++) store(weights + j * row + t, load(weights + j * row + t) / total);
    }
}

/* What the tokens of a tile read, and the outputs that follow from it. */
static void read_tile(const arguments *g, const buffers *w, tile_of at) {
    const int64_t D = g->memory_width, H = g->heads, d = D / H, C = g->channels, row = w->row;
    const int64_t to = (at.image * g->grid_height * g->grid_width + at.first) * C;
    const float *tokens = w->tokens + at.task * D * row, *logits = w->logits + at.task * D * row;
    const float *memory = w->memories + at.image * D * d;
    float *answers = w->b + D * row, *context = w->b, *summed = answers;
    for (int64_t h = 0; h < H; h++) {
        token_weights(logits + h * d * row, w->b, row, d, at.count);
        matmul(memory + h * d * d, 1, d, w->b, row, 0, answers + h * d * row, d, d, at.count);
    }
    linear(g->proj, answers, row, 0, context, D, D, at.count);
    for (int64_t t = 0; t < at.count; t += LANES) {
        const vec scale = scales(context + t, row, D, g->eps);
        const vec token_scale = g->token_gain ? scales(tokens + t, row, D, g->eps) : scale;
        for (int64_t j = 0; j < D; j++) {
            vec x = load(context + j * row + t) * scale * g->gain[j];
            store(context + j * row + t, x);
            if (g->token_gain) x += load(tokens + j * row + t) * token_scale * g->token_gain[j];
            store(summed + j * row + t, x);
        }
    }
    linear(g->up, summed, row, g->up_bias, w->a, C, D, at.count);
    transpose_out(w->a, row, g->gates + to, at.real, C);
    if (g->shift) {
        linear(g->shift, context, row, g->shift_bias, w->a, C, D, at.count);
        transpose_out(w->a, row, g->shifts + to, at.real, C);
    }
}

/* Threads wait for each other three times: for the mean of the tokens, for what all tiles wrote, and for the memory. */
void NAMED(convneur_global_branch)(const arguments *g) {
    const int64_t D = g->memory_width, d = D / g->heads, row = LANES * (TILE + 1), tasks = g->batch * g->tiles;
    const int64_t wide = g->channels > 2 * D ? g->channels : 2 * D;
    buffers shared = {.row = row, .tasks = tasks, .tokens = g->workspace};
    shared.vectors = (g->grid_height * g->grid_width + LANES - 1) / LANES;
    shared.logits = shared.tokens + tasks * D * row;
    shared.parts = shared.logits + tasks * D * row;
    shared.sums = shared.parts + tasks * D * d;
    shared.largest = shared.sums + tasks * D;
    shared.totals = shared.largest + tasks * D;
    shared.memories = shared.totals + tasks * D;
#pragma omp parallel num_threads(g->threads)
    {
        buffers w = shared;
        w.a = shared.memories + g->batch * D * d + omp_get_thread_num() * 2 * wide * row;
        w.b = w.a + wide * row;
#pragma omp for
        for (int64_t task = 0; task < tasks; task++) make_tokens(g, &w, tile_at(g, &w, task));
#pragma omp for
        for (int64_t task = 0; task < tasks; task++) write_tile(g, &w, tile_at(g, &w, task));
#pragma omp for collapse(2)
        for (int64_t image = 0; image < g->batch; image++)
            for (int64_t i = 0; i < D; i++) join_tiles(g, &w, image, i);
#pragma omp for
        for (int64_t task = 0; task < tasks; task++) read_tile(g, &w, tile_at(g, &w, task));
    }
}
