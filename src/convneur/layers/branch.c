/* The global branch in inference, one call: what `branch_kernel.py` calls; it says why.
 *
 * All arrays are float32 and contiguous. Maps are (batch, height, width, channels), weights as PyTorch has them,
 * (outputs, inputs). In here it is the other way round: a row for each channel, a column for each token, so that tokens
 * are side by side in a vector, and weights are taken as they are. A tile is some vectors of tokens of one image; what
 * is beyond the last token is filled up.
 *
 * This is compiled twice, for AVX2 and for AVX-512. Threads are those of PyTorch: what OpenMP asks for is found where
 * PyTorch has it, in the process.
 */
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#ifdef __AVX512F__
#define NAMED(name) name##_avx512
enum { LANES = 16, ROWS = 8 }; /* by two vectors: 16 sums, in 32 registers */
#else
#define NAMED(name) name##_avx2
enum { LANES = 8, ROWS = 4 }; /* 8 sums, in 16 */
#endif
enum { SIDE = 4, MOST = 128 / LANES }; /* sums that `outer` makes along each side; vectors of a tile */
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#ifndef __AVX512F__
/* What this was made from: a library of another source is not loaded. */
const char *convneur_source(void) { return CONVNEUR_SOURCE; }
#endif

/* As in branch_kernel.py, which says what each is. */
typedef struct {
    const float *map, *down, *down_bias, *store_gain, *keys, *values, *rates, *rates_bias, *initial, *retrieve_gain,
        *queries, *proj, *gain, *carry_gain, *up, *up_bias, *shift, *shift_bias;
    float *gates, *shifts, *room;
    int64_t batch, height, width, channels, stride, grid_height, grid_width, tokens, heads, rows_of_rates, center, decay,
        tiles, threads;
    float step, eps, key_eps;
} branch;

INLINE lanes load(const float *at) { return *(const lanes *)at; }
INLINE void store(float *at, lanes x) { *(lanes *)at = x; }

INLINE float sum(lanes x) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += x[i];
    return total;
}

INLINE lanes inverse_root(lanes x) {
    for (int i = 0; i < LANES; i++) x[i] = 1 / sqrtf(x[i]);
    return x;
}

INLINE float sigmoid(float x) { return 1 / (1 + expf(-x)); }

INLINE void tile(const float *a, int64_t down, int64_t along, const float *b, int64_t row, const float *bias, float *out,
                 int64_t depth, const int rows, const int columns) {
    lanes sums[ROWS][2];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < columns; j++) sums[i][j] = (lanes){0} + (bias ? bias[i] : 0);
    for (int64_t k = 0; k < depth; k++) {
        lanes of_b[2];
        UNROLL for (int j = 0; j < columns; j++) of_b[j] = load(b + k * row + j * LANES);
        UNROLL for (int i = 0; i < rows; i++)
            UNROLL for (int j = 0; j < columns; j++) sums[i][j] += a[i * down + k * along] * of_b[j];
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < columns; j++) store(out + i * row + j * LANES, sums[i][j]);
}

/* out (height x tokens) = a (height x depth) b (depth x tokens) + bias (height). The next row of a is `down` further,
 * the next column `along`; the next row of b and out is `row` further. */
INLINE void product(const float *a, int64_t down, int64_t along, const float *b, int64_t row, const float *bias,
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

static void map_of(const float *a, const float *b, int64_t row, const float *bias, float *out, int64_t height,
                   int64_t depth, int64_t tokens) {
    product(a, depth, 1, b, row, bias, out, height, depth, tokens);
}

INLINE void corner(const float *a, const float *b, int64_t row, int64_t tokens, float *out, int64_t out_row,
                   const int rows, const int columns) {
    lanes sums[SIDE][SIDE];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < columns; j++) sums[i][j] = (lanes){0};
    for (int64_t t = 0; t < tokens; t += LANES) {
        lanes of_b[SIDE];
        UNROLL for (int j = 0; j < columns; j++) of_b[j] = load(b + j * row + t);
        UNROLL for (int i = 0; i < rows; i++) {
            const lanes of_a = load(a + i * row + t);
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

/* (count, numbers) -> (numbers, count), whose rows are `row` apart. */
INLINE void stand(const float *from, float *to, int64_t row, int64_t count, int64_t numbers) {
    for (int64_t j = 0; j < numbers; j++)
        for (int64_t t = 0; t < count; t++) to[j * row + t] = from[t * numbers + j];
}

INLINE void lie(const float *from, int64_t row, float *to, int64_t count, int64_t numbers) {
    for (int64_t t = 0; t < count; t++)
        for (int64_t j = 0; j < numbers; j++) to[t * numbers + j] = from[j * row + t];
}

/* The mean of each token's pixels, LANES tokens at a time, from `first` on. */
INLINE void pool(const branch *g, const float *map, int64_t first, int64_t count, float *means) {
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

/* Scales of the columns of x (numbers x tokens) that bring their mean square to one. */
INLINE lanes scales(const float *x, int64_t row, int64_t numbers, float over, float eps) {
    lanes squares = {0};
    for (int64_t j = 0; j < numbers; j++) squares += load(x + j * row) * load(x + j * row);
    return inverse_root(squares / over + eps);
}

void NAMED(convneur_branch)(const branch *g) {
    const int64_t D = g->tokens, H = g->heads, d = D / H, C = g->channels, N = g->grid_height * g->grid_width;
    const int64_t vectors = (N + LANES - 1) / LANES, tasks = g->batch * g->tiles, row = LANES * (MOST + 1);
    const int64_t last = g->rows_of_rates - H, wide = C > 2 * D ? C : 2 * D;
    float *tokens = g->room, *units = tokens + tasks * D * row, *sums = units + tasks * D * row;
    float *partial = sums + tasks * D, *forgotten = partial + tasks * D * d, *memory = forgotten + tasks * H;
    float *own = memory + g->batch * D * d;
#pragma omp parallel num_threads(g->threads)
    {
        float *a = own + omp_get_thread_num() * (2 * wide + 2 * H) * row, *b = a + wide * row, *c = b + wide * row;
#pragma omp for
        for (int64_t task = 0; task < tasks; task++) {
            const int64_t image = task / g->tiles, number = task % g->tiles;
            const int64_t from = vectors * number / g->tiles * LANES, to = vectors * (number + 1) / g->tiles * LANES;
            const int64_t real = (to < N ? to : N) - from;
            float *z = tokens + task * D * row;
            for (int64_t t = 0; t < to - from; t += LANES) {
                const int64_t count = real - t < LANES ? real - t : LANES;
                if (count < LANES)
                    for (int64_t j = 0; j < C; j++) store(a + j * row + t, (lanes){0});
                const float *map = g->map + image * g->height * g->width * C;
                if (g->stride == 1) stand(map + (from + t) * C, a + t, row, count, C);
                else {
                    pool(g, map, from + t, count, b);
                    stand(b, a + t, row, count, C);
                }
            }
            map_of(g->down, a, row, g->down_bias, z, D, C, to - from);
            for (int64_t j = 0; j < D; j++) {
                lanes total = {0};
                for (int64_t t = real; t < to - from; t++) z[j * row + t] = 0;
                for (int64_t t = 0; t < to - from; t += LANES) total += load(z + j * row + t);
                sums[task * D + j] = sum(total);
            }
        }
#pragma omp for
        for (int64_t task = 0; task < tasks; task++) {
            const int64_t image = task / g->tiles, number = task % g->tiles;
            const int64_t from = vectors * number / g->tiles * LANES, to = vectors * (number + 1) / g->tiles * LANES;
            const int64_t real = (to < N ? to : N) - from, count = to - from;
            float *z = tokens + task * D * row, *unit = units + task * D * row, *keys = b, *values = b + D * row;
            float *opening = c, *forgetting = c + H * row;
            for (int64_t j = 0; j < D; j++) {
                float mean = 0;
                for (int64_t i = 0; g->center && i < g->tiles; i++) mean += sums[(image * g->tiles + i) * D + j];
                mean /= (float)N;
                for (int64_t t = 0; t < count; t += LANES) store(unit + j * row + t, load(z + j * row + t) - mean);
            }
            for (int64_t t = 0; t < count; t += LANES) {
                const lanes scale = scales(unit + t, row, D, (float)D, g->eps);
                for (int64_t j = 0; j < D; j++) {
                    const lanes x = load(unit + j * row + t) * scale;
                    store(unit + j * row + t, x);
                    store(a + j * row + t, x * g->store_gain[j]);
                }
            }
            map_of(g->keys, a, row, 0, keys, D, D, count);
            map_of(g->values, a, row, 0, values, D, D, count);
            map_of(g->rates, a, row, g->rates_bias, opening, H, D, count);
            if (g->decay) map_of(g->rates + last * D, a, row, g->rates_bias + last, forgetting, H, D, count);
            for (int64_t h = 0; h < H; h++) {
                float *key = keys + h * d * row, *value = values + h * d * row, *error = a;
                for (int64_t t = 0; t < count; t += LANES) {
                    const lanes scale = scales(key + t, row, d, 1, g->key_eps);
                    for (int64_t j = 0; j < d; j++) store(key + j * row + t, load(key + j * row + t) * scale);
                }
                product(g->initial + h * d * d, 1, d, key, row, 0, error, d, d, count);
                float *open = opening + h * row;
                for (int64_t t = 0; t < count; t++) open[t] = t < real ? g->step * sigmoid(open[t]) : 0;
                for (int64_t j = 0; j < d; j++)
                    for (int64_t t = 0; t < count; t += LANES)
                        store(error + j * row + t, (load(error + j * row + t) - load(value + j * row + t)) * load(open + t));
                outer(key, error, row, count, partial + (task * H + h) * d * d, d);
                float total = 0;
                for (int64_t t = 0; g->decay && t < real; t++) total += forgetting[h * row + t];
                forgotten[task * H + h] = total;
            }
        }
#pragma omp for collapse(2)
        for (int64_t image = 0; image < g->batch; image++)
            for (int64_t h = 0; h < H; h++) {
                const float *initial = g->initial + h * d * d;
                float *made = memory + (image * H + h) * d * d, kept = 1;
                if (g->decay) {
                    double total = 0;
                    for (int64_t i = 0; i < g->tiles; i++) total += forgotten[(image * g->tiles + i) * H + h];
                    kept = sigmoid(-(float)(total / (double)N));
                }
                for (int64_t i = 0; i < d * d; i++) made[i] = kept * initial[i];
                for (int64_t tile = 0; tile < g->tiles; tile++) {
                    const float *some = partial + ((image * g->tiles + tile) * H + h) * d * d;
                    for (int64_t i = 0; i < d * d; i++) made[i] -= some[i];
                }
            }
#pragma omp for
        for (int64_t task = 0; task < tasks; task++) {
            const int64_t image = task / g->tiles, number = task % g->tiles;
            const int64_t from = vectors * number / g->tiles * LANES, to = vectors * (number + 1) / g->tiles * LANES;
            const int64_t real = (to < N ? to : N) - from, count = to - from, at = (image * N + from) * C;
            const float *z = tokens + task * D * row, *unit = units + task * D * row;
            float *queries = b, *answers = b + D * row, *read = b;
            for (int64_t j = 0; j < D; j++)
                for (int64_t t = 0; t < count; t += LANES)
                    store(a + j * row + t, load(unit + j * row + t) * g->retrieve_gain[j]);
            map_of(g->queries, a, row, 0, queries, D, D, count);
            for (int64_t h = 0; h < H; h++)
                product(memory + (image * H + h) * d * d, 1, d, queries + h * d * row, row, 0, answers + h * d * row, d, d,
                        count);
            map_of(g->proj, answers, row, 0, read, D, D, count);
            float *context = read, *carried = answers;
            for (int64_t t = 0; t < count; t += LANES) {
                const lanes scale = scales(read + t, row, D, (float)D, g->eps);
                const lanes carry = g->carry_gain ? scales(z + t, row, D, (float)D, g->eps) : scale;
                for (int64_t j = 0; j < D; j++) {
                    lanes x = load(read + j * row + t) * scale * g->gain[j];
                    store(context + j * row + t, x);
                    if (g->carry_gain) x += load(z + j * row + t) * carry * g->carry_gain[j];
                    store(carried + j * row + t, x);
                }
            }
            map_of(g->up, carried, row, g->up_bias, a, C, D, count);
            lie(a, row, g->gates + at, real, C);
            if (g->shift) {
                map_of(g->shift, context, row, g->shift_bias, a, C, D, count);
                lie(a, row, g->shifts + at, real, C);
            }
        }
    }
}
