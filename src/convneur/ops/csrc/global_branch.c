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
    const float *x, *down, *down_bias, *store_gain, *keys, *values, *rates, *rates_bias, *initial, *retrieve_gain,
        *queries, *proj, *gain, *token_gain, *up, *up_bias, *shift, *shift_bias;
    float *gates, *shifts, *workspace;
    int64_t batch, height, width, channels, stride, grid_height, grid_width, memory_width, heads, rate_rows, center, decay,
        tiles, threads;
    float step, eps, key_eps;
} arguments;

INLINE vec inverse_root(vec x) {
    for (int i = 0; i < LANES; i++) x[i] = 1 / sqrtf(x[i]);
    return x;
}

INLINE float sigmoid(float x) { return 1 / (1 + expf(-x)); }

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

/* One over the root of the sum of squares of each column of x (numbers x tokens), over `over`. */
INLINE vec scales(const float *x, int64_t row, int64_t numbers, float over, float eps) {
    vec squares = {0};
    for (int64_t j = 0; j < numbers; j++) squares += load(x + j * row) * load(x + j * row);
    return inverse_root(squares / over + eps);
}

/* What is at hand while the kernel runs. `row` floats lie between two channels of a tile. Per tile: tokens, their mean
 * taken off and divided by their RMS (normed), sums, the gradient of its write, sums of the decay's logits; per image: the
 * written memory. a, b, c are a thread's own. */
typedef struct {
    int64_t row, tasks, vectors;
    float *tokens, *normed, *sums, *gradients, *forgets, *memories, *a, *b, *c;
} buffers;

typedef struct {
    int64_t task, image, first, real, count; /* tokens: the first, those there are, and with padding */
} tile_of;

INLINE tile_of tile_at(const arguments *g, const buffers *w, int64_t task) {
    const int64_t number = task % g->tiles, tokens = g->grid_height * g->grid_width;
    const int64_t from = w->vectors * number / g->tiles * LANES, to = w->vectors * (number + 1) / g->tiles * LANES;
    return (tile_of){task, task / g->tiles, from, (to < tokens ? to : tokens) - from, to - from};
}

/* tokens = down(pool(x)), and their sum. */
static void make_tokens(const arguments *g, const buffers *w, tile_of at) {
    const int64_t D = g->memory_width, C = g->channels, row = w->row;
    float *tokens = w->tokens + at.task * D * row;
    const float *x = g->x + at.image * g->height * g->width * C;
    for (int64_t t = 0; t < at.count; t += LANES) {
        const int64_t count = at.real - t < LANES ? at.real - t : LANES;
        if (count < LANES)
            for (int64_t j = 0; j < C; j++) store(w->a + j * row + t, (vec){0});
        if (g->stride > 1) pool(g, x, at.first + t, count, w->b);
        transpose_in(g->stride > 1 ? w->b : x + (at.first + t) * C, w->a + t, row, count, C);
    }
    linear(g->down, w->a, row, g->down_bias, tokens, D, C, at.count);
    for (int64_t j = 0; j < D; j++) {
        vec total = {0};
        for (int64_t t = at.real; t < at.count; t++) tokens[j * row + t] = 0;
        for (int64_t t = 0; t < at.count; t += LANES) total += load(tokens + j * row + t);
        w->sums[at.task * D + j] = sum(total);
    }
}

/* The gradient of one head's write at M_0: keys^T ((keys M_0 - values) * steps). keys, values (d, tokens); the keys are
 * normalised in place; error is workspace. */
static void write_head(const arguments *g, int64_t h, float *keys, const float *values, const float *steps,
                       float *error, int64_t row, int64_t count, float *gradient) {
    const int64_t d = g->memory_width / g->heads;
    for (int64_t t = 0; t < count; t += LANES) {
        const vec scale = scales(keys + t, row, d, 1, g->key_eps);
        for (int64_t j = 0; j < d; j++) store(keys + j * row + t, load(keys + j * row + t) * scale);
    }
    matmul(g->initial + h * d * d, 1, d, keys, row, 0, error, d, d, count);
    for (int64_t j = 0; j < d; j++)
        for (int64_t t = 0; t < count; t += LANES)
            store(error + j * row + t, (load(error + j * row + t) - load(values + j * row + t)) * load(steps + t));
    outer(keys, error, row, count, gradient + h * d * d, d);
}

/* Centre and normalise the tokens of a tile; the gradient of its write, and the sum of its decay's logits. */
static void write_tile(const arguments *g, const buffers *w, tile_of at) {
    const int64_t D = g->memory_width, H = g->heads, d = D / H, row = w->row, last = g->rate_rows - H;
    const int64_t N = g->grid_height * g->grid_width;
    const float *tokens = w->tokens + at.task * D * row;
    float *normed = w->normed + at.task * D * row, *keys = w->b, *values = w->b + D * row;
    float *steps = w->c, *forget = w->c + H * row;
    for (int64_t j = 0; j < D; j++) {
        float mean = 0;
        for (int64_t i = 0; g->center && i < g->tiles; i++) mean += w->sums[(at.image * g->tiles + i) * D + j];
        mean /= (float)N;
        for (int64_t t = 0; t < at.count; t += LANES) store(normed + j * row + t, load(tokens + j * row + t) - mean);
    }
    for (int64_t t = 0; t < at.count; t += LANES) {
        const vec scale = scales(normed + t, row, D, (float)D, g->eps);
        for (int64_t j = 0; j < D; j++) {
            const vec x = load(normed + j * row + t) * scale;
            store(normed + j * row + t, x);
            store(w->a + j * row + t, x * g->store_gain[j]);
        }
    }
    linear(g->keys, w->a, row, 0, keys, D, D, at.count);
    linear(g->values, w->a, row, 0, values, D, D, at.count);
    linear(g->rates, w->a, row, g->rates_bias, steps, H, D, at.count);
    if (g->decay) linear(g->rates + last * D, w->a, row, g->rates_bias + last, forget, H, D, at.count);
    for (int64_t h = 0; h < H; h++) {
        float *step = steps + h * row, total = 0;
        for (int64_t t = 0; t < at.count; t++) step[t] = t < at.real ? g->step * sigmoid(step[t]) : 0;
        write_head(g, h, keys + h * d * row, values + h * d * row, step, w->a, row, at.count,
                   w->gradients + at.task * D * d);
        for (int64_t t = 0; g->decay && t < at.real; t++) total += forget[h * row + t];
        w->forgets[at.task * H + h] = total;
    }
}

/* Row i of an image's memory: (1 - alpha) M_0 less the gradients of all tiles. */
static void sum_tiles(const arguments *g, const buffers *w, int64_t image, int64_t i) {
    const int64_t D = g->memory_width, H = g->heads, d = D / H, N = g->grid_height * g->grid_width;
    float retention = 1, *memory = w->memories + image * D * d + i * d;
    if (g->decay) {
        double total = 0;
        for (int64_t j = 0; j < g->tiles; j++) total += w->forgets[(image * g->tiles + j) * H + i / d];
        retention = sigmoid(-(float)(total / (double)N));
    }
    for (int64_t j = 0; j < d; j++) memory[j] = retention * g->initial[i * d + j];
    for (int64_t tile = 0; tile < g->tiles; tile++) {
        const float *gradient = w->gradients + (image * g->tiles + tile) * D * d + i * d;
        for (int64_t j = 0; j < d; j++) memory[j] -= gradient[j];
    }
}

/* What the tokens of a tile read, and the outputs that follow from it. */
static void read_tile(const arguments *g, const buffers *w, tile_of at) {
    const int64_t D = g->memory_width, H = g->heads, d = D / H, C = g->channels, row = w->row;
    const int64_t to = (at.image * g->grid_height * g->grid_width + at.first) * C;
    const float *tokens = w->tokens + at.task * D * row, *normed = w->normed + at.task * D * row;
    const float *memory = w->memories + at.image * D * d;
    float *queries = w->b, *answers = w->b + D * row, *context = w->b, *summed = answers;
    for (int64_t j = 0; j < D; j++)
        for (int64_t t = 0; t < at.count; t += LANES)
            store(w->a + j * row + t, load(normed + j * row + t) * g->retrieve_gain[j]);
    linear(g->queries, w->a, row, 0, queries, D, D, at.count);
    for (int64_t h = 0; h < H; h++)
        matmul(memory + h * d * d, 1, d, queries + h * d * row, row, 0, answers + h * d * row, d, d, at.count);
    linear(g->proj, answers, row, 0, context, D, D, at.count);
    for (int64_t t = 0; t < at.count; t += LANES) {
        const vec scale = scales(context + t, row, D, (float)D, g->eps);
        const vec token_scale = g->token_gain ? scales(tokens + t, row, D, (float)D, g->eps) : scale;
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

/* Threads wait for each other three times: for the mean of the tokens, for all gradients, for the memory. */
void NAMED(convneur_global_branch)(const arguments *g) {
    const int64_t D = g->memory_width, H = g->heads, d = D / H, row = LANES * (TILE + 1), tasks = g->batch * g->tiles;
    const int64_t wide = g->channels > 2 * D ? g->channels : 2 * D;
    buffers shared = {.row = row, .tasks = tasks, .tokens = g->workspace};
    shared.vectors = (g->grid_height * g->grid_width + LANES - 1) / LANES;
    shared.normed = shared.tokens + tasks * D * row;
    shared.sums = shared.normed + tasks * D * row;
    shared.gradients = shared.sums + tasks * D;
    shared.forgets = shared.gradients + tasks * D * d;
    shared.memories = shared.forgets + tasks * H;
#pragma omp parallel num_threads(g->threads)
    {
        buffers w = shared;
        w.a = shared.memories + g->batch * D * d + omp_get_thread_num() * 2 * (wide + H) * row;
        w.b = w.a + wide * row;
        w.c = w.b + wide * row;
#pragma omp for
        for (int64_t task = 0; task < tasks; task++) make_tokens(g, &w, tile_at(g, &w, task));
#pragma omp for
        for (int64_t task = 0; task < tasks; task++) write_tile(g, &w, tile_at(g, &w, task));
#pragma omp for collapse(2)
        for (int64_t image = 0; image < g->batch; image++)
            for (int64_t i = 0; i < D; i++) sum_tiles(g, &w, image, i);
#pragma omp for
        for (int64_t task = 0; task < tasks; task++) read_tile(g, &w, tile_at(g, &w, task));
    }
}
