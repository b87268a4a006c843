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
#include <omp.h>

#define UNROLL _Pragma("GCC unroll 16")
#ifdef __AVX512F__
#define NAMED(name) name##_avx512
enum { LANES = 16, ROWS = 8 }; /* by two vectors: 16 sums, in 32 registers */
#else
#define NAMED(name) name##_avx2
enum { LANES = 8, ROWS = 4 }; /* 8 sums, in 16 */
#endif
enum { SIDE = 4, MOST = 128 / LANES }; /* sums that `outer` makes along each side; vectors of a tile */
#include "../memory/lanes.h"

#ifndef __AVX512F__
/* What this was made from: a library of another source is not loaded. */
const char *convneur_source(void) { return CONVNEUR_SOURCE; }
#endif

/* As in branch_kernel.py, which says what each is. */
typedef struct {
    const float *map, *down, *down_bias, *store_gain, *keys, *values, *rates, *rates_bias, *initial, *second,
        *state_gain, *retrieve_gain, *queries, *proj, *gain, *carry_gain, *up, *up_bias, *shift, *shift_bias;
    float *gates, *shifts, *room;
    int64_t batch, height, width, channels, stride, grid_height, grid_width, tokens, heads, rows_of_rates, center, decay,
        tiles, threads;
    float step, eps, key_eps, norm_eps;
} branch;

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

/* Memory of one head, of a tile: what is taken off the initial one. keys, values (d, tokens), `open` the step of each
 * token; error is to work in. */
static void write_linear(const branch *g, int64_t h, float *keys, const float *values, const float *open, float *error,
                         int64_t row, int64_t count, float *taken) {
    const int64_t d = g->tokens / g->heads;
    for (int64_t t = 0; t < count; t += LANES) {
        const lanes scale = scales(keys + t, row, d, 1, g->key_eps);
        for (int64_t j = 0; j < d; j++) store(keys + j * row + t, load(keys + j * row + t) * scale);
    }
    product(g->initial + h * d * d, 1, d, keys, row, 0, error, d, d, count);
    for (int64_t j = 0; j < d; j++)
        for (int64_t t = 0; t < count; t += LANES)
            store(error + j * row + t, (load(error + j * row + t) - load(values + j * row + t)) * load(open + t));
    outer(keys, error, row, count, taken + h * d * d, d);
}

/* The same of the mlp state. What is held of it, here and below: the first maps of all heads (4 D d numbers), the second
 * ones (as many), the gains (D). Here tokens are rows, as its maps
 * are (inputs, outputs). turned is the second map the other way round; room is for 15 d numbers a token. */
static void write_mlp(const branch *g, int64_t h, const float *keys, const float *values, const float *open,
                      const float *turned, float *room, int64_t row, int64_t count, float *taken) {
    const int64_t D = g->tokens, d = D / g->heads, wide = 4 * d;
    const float *gain = g->state_gain + h * d;
    float *key = room, *value = key + count * d, *update = value + count * d, *slope = update + count * d;
    float *hidden = slope + count * wide, *back = hidden + count * wide, *by_gain = taken + 2 * D * wide + h * d;
    lie(keys, row, key, count, d);
    lie(values, row, value, count, d);
    product(key, d, 1, g->initial + h * d * wide, wide, 0, slope, count, d, wide);
    for (int64_t i = 0; i < count * wide; i += LANES) {
        lanes of;
        store(hidden + i, gelu_and_slope(load(slope + i), &of));
        store(slope + i, of);
    }
    product(hidden, wide, 1, g->second + h * d * wide, d, 0, update, count, wide, d);
    memset(by_gain, 0, d * sizeof(float));
    for (int64_t t = 0; t < count; t++)
        mistake(key + t * d, value + t * d, gain, open[t], update + t * d, by_gain, d, g->norm_eps);
    product(update, d, 1, turned + h * d * wide, wide, 0, back, count, d, wide);
    for (int64_t i = 0; i < count * wide; i += LANES) store(back + i, load(back + i) * load(slope + i));
    product(key, 1, d, back, wide, 0, taken + h * d * wide, d, count, wide);
    product(hidden, 1, wide, update, d, 0, taken + (D + h * d) * wide, wide, count, d);
}

/* What a memory that was written answers to queries (d, tokens); answers are as large. */
static void read_mlp(const branch *g, int64_t h, const float *memory, const float *queries, float *answers, float *room,
                     int64_t row, int64_t count) {
    const int64_t D = g->tokens, d = D / g->heads, wide = 4 * d;
    float *query = room, *update = query + count * d, *hidden = update + count * d;
    lie(queries, row, query, count, d);
    product(query, d, 1, memory + h * d * wide, wide, 0, hidden, count, d, wide);
    for (int64_t i = 0; i < count * wide; i += LANES) {
        lanes slope;
        store(hidden + i, gelu_and_slope(load(hidden + i), &slope));
    }
    product(hidden, wide, 1, memory + (D + h * d) * wide, d, 0, update, count, wide, d);
    for (int64_t t = 0; t < count; t++)
        answered(query + t * d, memory + 2 * D * wide + h * d, update + t * d, d, g->norm_eps);
    stand(update, answers, row, count, d);
}

/* `count` numbers of a memory: what is kept of the initial ones, less what each tile takes off. */
INLINE void settle(const float *initial, const float *taken, float *made, int64_t count, float kept, int64_t tiles,
                   int64_t numbers) {
    for (int64_t i = 0; i < count; i++) made[i] = kept * initial[i];
    for (int64_t tile = 0; tile < tiles; tile++)
        for (int64_t i = 0; i < count; i++) made[i] -= taken[tile * numbers + i];
}

void NAMED(convneur_branch)(const branch *g) {
    const int64_t D = g->tokens, H = g->heads, d = D / H, C = g->channels, N = g->grid_height * g->grid_width;
    const int64_t vectors = (N + LANES - 1) / LANES, tasks = g->batch * g->tiles, row = LANES * (MOST + 1);
    const int64_t last = g->rows_of_rates - H, wide = C > 2 * D ? C : 2 * D;
    const int64_t mlp = g->second != 0, numbers = mlp ? D * (8 * d + 1) : D * d, share = 2 * (wide + H) + mlp * 15 * d;
    float *tokens = g->room, *units = tokens + tasks * D * row, *sums = units + tasks * D * row;
    float *taken = sums + tasks * D, *forgotten = taken + tasks * numbers, *memory = forgotten + tasks * H;
    float *turned = memory + g->batch * numbers, *own = turned + mlp * 4 * D * d;
#pragma omp parallel num_threads(g->threads)
    {
        float *a = own + omp_get_thread_num() * share * row, *b = a + wide * row, *c = b + wide * row, *e = c + 2 * H * row;
#pragma omp for nowait
        for (int64_t i = 0; i < mlp * D; i++) {
            const float *second = g->second + i / d * 4 * d * d + i % d;
            for (int64_t k = 0; k < 4 * d; k++) turned[i * 4 * d + k] = second[k * d];
        }
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
                float *key = keys + h * d * row, *value = values + h * d * row, *open = opening + h * row;
                for (int64_t t = 0; t < count; t++) open[t] = t < real ? g->step * sigmoid(open[t]) : 0;
                if (mlp) write_mlp(g, h, key, value, open, turned, e, row, count, taken + task * numbers);
                else write_linear(g, h, key, value, open, a, row, count, taken + task * numbers);
                float total = 0;
                for (int64_t t = 0; g->decay && t < real; t++) total += forgetting[h * row + t];
                forgotten[task * H + h] = total;
            }
        }
#pragma omp for collapse(2)
        for (int64_t image = 0; image < g->batch; image++)
            for (int64_t i = 0; i < D; i++) {
                float kept = 1;
                if (g->decay) {
                    double total = 0;
                    for (int64_t j = 0; j < g->tiles; j++) total += forgotten[(image * g->tiles + j) * H + i / d];
                    kept = sigmoid(-(float)(total / (double)N));
                }
                const float *some = taken + image * g->tiles * numbers;
                float *made = memory + image * numbers;
                const int64_t each = mlp ? 4 * d : d, at = i * each, second = D * each + at, gain = 2 * D * each + i;
                settle(g->initial + at, some + at, made + at, each, kept, g->tiles, numbers);
                if (mlp) {
                    settle(g->second + at, some + second, made + second, each, kept, g->tiles, numbers);
                    settle(g->state_gain + i, some + gain, made + gain, 1, kept, g->tiles, numbers);
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
            for (int64_t h = 0; h < H; h++) {
                const float *made = memory + image * numbers, *query = queries + h * d * row;
                float *answer = answers + h * d * row;
                if (mlp) read_mlp(g, h, made, query, answer, e, row, count);
                else product(made + h * d * d, 1, d, query, row, 0, answer, d, d, count);
            }
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
