/* The default memory for few tokens: what `kernels.py` calls, and says why.
 *
 * All arrays are float32 and contiguous unless a stride is given. n tokens of a width D, which is a multiple of LANES;
 * H heads of d = D / H, which may be any number: matrices of one head have rows of `wide` numbers, the next multiple,
 * and zeros in what is too many. `room` has `share` numbers for each of `threads`.
 *
 * Threads are those of PyTorch: what OpenMP asks for is found where PyTorch has it, in the process.
 */
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum {
    LANES = 8,
    ROWS = 4,   /* by two columns: eight sums in the sixteen registers of AVX2; AVX-512 gains nothing */
    BLOCK = 128 /* tokens that are added up by themselves, so that sums of many keep their precision */
};
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* What this was made from: kernels.py loads no library of another source. */
const char *convneur_source(void) { return CONVNEUR_SOURCE; }

INLINE lanes load(const float *at) { return *(const lanes *)at; }
INLINE void store(float *at, lanes x) { *(lanes *)at = x; }

INLINE float sum(lanes x) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += x[i];
    return total;
}

INLINE float sigmoid(float x) { return 1 / (1 + expf(-x)); }

/* `columns` times LANES columns of `rows` rows of `product`: both are constants where it is called, so that the sums
 * stay in registers. */
INLINE void tile(const float *a, int64_t down, int64_t along, const float *b, int64_t b_row, float *out,
                 int64_t out_row, int64_t depth, float alpha, int add, const int rows, const int columns) {
    lanes sums[ROWS][2];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) sums[i][j] = (lanes){0};
    for (int64_t k = 0; k < depth; k++)
        for (int j = 0; j < columns; j++) {
            lanes of_b = load(b + k * b_row + j * LANES);
            for (int i = 0; i < rows; i++) sums[i][j] += a[i * down + k * along] * of_b;
        }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) {
            float *at = out + i * out_row + j * LANES;
            store(at, add ? load(at) + alpha * sums[i][j] : alpha * sums[i][j]);
        }
}

/* out (height x width) = [out +] alpha a (height x depth) b (depth x width). The next row of a is `down` further, the
 * next column `along`; width is a multiple of LANES. */
INLINE void product(const float *a, int64_t down, int64_t along, const float *b, int64_t b_row, float *out,
                    int64_t out_row, int64_t height, int64_t width, int64_t depth, float alpha, int add) {
    for (int64_t i = 0; i < height;) {
        const int64_t rows = height - i >= ROWS ? ROWS : 1;
        for (int64_t j = 0; j < width;) {
            const int64_t columns = width - j >= 2 * LANES ? 2 : 1;
            const float *left = a + i * down, *right = b + j;
            float *to = out + i * out_row + j;
            if (rows == ROWS && columns == 2)
                tile(left, down, along, right, b_row, to, out_row, depth, alpha, add, ROWS, 2);
            else if (rows == ROWS)
                tile(left, down, along, right, b_row, to, out_row, depth, alpha, add, ROWS, 1);
            else if (columns == 2)
                tile(left, down, along, right, b_row, to, out_row, depth, alpha, add, 1, 2);
            else
                tile(left, down, along, right, b_row, to, out_row, depth, alpha, add, 1, 1);
            j += columns * LANES;
        }
        i += rows;
    }
}

/* `numbers` of a row and zeros up to `wide`. */
INLINE void padded(const float *row, float *to, int64_t numbers, int64_t wide) {
    memcpy(to, row, numbers * sizeof(float));
    memset(to + numbers, 0, (wide - numbers) * sizeof(float));
}

/* tokens (batch, n, D) -> unit, as large: over the root of their mean square, an image's mean taken off if `center`.
 * share: D. */
void convneur_unit(const float *tokens, float *unit, float *room, int threads, int64_t batch, int64_t n, int64_t width,
                   int center, float eps) {
#pragma omp parallel for num_threads(threads) if (batch > 1)
    for (int64_t image = 0; image < batch; image++) {
        const float *from = tokens + image * n * width;
        float *to = unit + image * n * width, *mean = room + omp_get_thread_num() * width;
        memset(mean, 0, width * sizeof(float));
        for (int64_t first = 0; center && first < n; first += BLOCK)
            for (int64_t j = 0; j < width; j += LANES) {
                lanes some = {0};
                for (int64_t t = first; t < n && t < first + BLOCK; t++) some += load(from + t * width + j);
                store(mean + j, load(mean + j) + some);
            }
        for (int64_t j = 0; j < width; j += LANES) store(mean + j, load(mean + j) / (float)n);
        for (int64_t t = 0; t < n; t++, from += width, to += width) {
            lanes squares = {0};
            for (int64_t j = 0; j < width; j += LANES) {
                lanes x = load(from + j) - load(mean + j);
                squares += x * x;
                store(to + j, x);
            }
            const float scale = 1 / sqrtf(sum(squares) / (float)width + eps);
            for (int64_t j = 0; j < width; j += LANES) store(to + j, load(to + j) * scale);
        }
    }
}

/* One head of one image: keys, values and the logits of its rates, of n tokens that are `row` apart, are written into
 * initial (d, d), and what was written is multiplied with proj (d, D). */
INLINE void write_head(const float *keys, const float *values, const float *opening, const float *forgetting,
                       const float *initial, const float *proj, float *behind, float *room, int64_t n, int64_t row,
                       int64_t width, int64_t head, float opening_bias, float forgetting_bias, float step,
                       float key_eps) {
    const int64_t wide = (head + LANES - 1) / LANES * LANES;
    float *unit = room, *error = unit + n * wide, *memory = error + n * wide;
    double forgotten = 0;
    for (int64_t i = 0; i < head; i++) padded(initial + i * head, memory + i * wide, head, wide);
    for (int64_t t = 0; t < n; t++) {
        float *key = unit + t * wide;
        lanes squares = {0};
        padded(keys + t * row, key, head, wide);
        for (int64_t j = 0; j < wide; j += LANES) squares += load(key + j) * load(key + j);
        const float inverse = 1 / sqrtf(sum(squares) + key_eps);
        for (int64_t j = 0; j < wide; j += LANES) store(key + j, load(key + j) * inverse);
        if (forgetting) forgotten += forgetting[t * row];
    }
    product(unit, wide, 1, memory, wide, error, wide, n, wide, head, 1, 0);
    for (int64_t t = 0; t < n; t++) {
        const float open = sigmoid(opening[t * row] + opening_bias);
        for (int64_t j = 0; j < head; j++) error[t * wide + j] = (error[t * wide + j] - values[t * row + j]) * open;
    }
    if (forgetting) {
        const float kept = sigmoid(-((float)(forgotten / (double)n) + forgetting_bias));
        for (int64_t i = 0; i < head * wide; i += LANES) store(memory + i, load(memory + i) * kept);
    }
    for (int64_t t = 0; t < n; t += BLOCK)
        product(unit + t * wide, 1, wide, error + t * wide, wide, memory, wide, head, wide, n - t < BLOCK ? n - t : BLOCK,
                -step, 1);
    product(memory, wide, 1, proj, width, behind, width, head, width, head, 1, 0);
}

/* stored (batch, n, 2 D + rates): keys, values, and logits of the rates, all heads of one after the other, the opening
 * first and what forgets, if `decay`, last. bias (rates), initial (H, d, d), proj (H, d, D). behind (batch, D, D): what
 * each head of an image holds afterwards, times its proj. share: 2 n wide + d wide. */
void convneur_write(const float *stored, const float *bias, const float *initial, const float *proj, float *behind,
                    float *room, int64_t share, int threads, int64_t batch, int64_t n, int64_t width, int64_t heads,
                    int64_t rates, int decay, float step, float key_eps) {
    const int64_t head = width / heads, row = 2 * width + rates;
#pragma omp parallel for num_threads(threads) collapse(2)
    for (int64_t image = 0; image < batch; image++)
        for (int64_t h = 0; h < heads; h++) {
            const float *keys = stored + image * n * row + h * head, *logits = stored + image * n * row + 2 * width;
            const int64_t last = rates - heads + h;
            write_head(keys, keys + width, logits + h, decay ? logits + last : 0, initial + h * head * head,
                       proj + h * head * width, behind + (image * heads + h) * head * width,
                       room + omp_get_thread_num() * share, n, row, width, head, bias[h], bias[last], step, key_eps);
        }
}

/* read, tokens (n, D) -> contexts = rms(read) gain, carried = contexts + rms(tokens) carry_gain, all of one size. */
void convneur_contexts(const float *read, const float *tokens, const float *gain, const float *carry_gain,
                       float *contexts, float *carried, int threads, int64_t n, int64_t width, float eps) {
#pragma omp parallel for num_threads(threads) if (n * width > 32768)
    for (int64_t t = 0; t < n; t++) {
        const float *x = read + t * width, *y = tokens + t * width;
        lanes of_x = {0}, of_y = {0};
        for (int64_t j = 0; j < width; j += LANES) {
            of_x += load(x + j) * load(x + j);
            of_y += load(y + j) * load(y + j);
        }
        const float scale = 1 / sqrtf(sum(of_x) / (float)width + eps);
        const float carry_scale = 1 / sqrtf(sum(of_y) / (float)width + eps);
        for (int64_t j = 0; j < width; j += LANES) {
            const lanes context = load(x + j) * scale * load(gain + j);
            store(contexts + t * width + j, context);
            store(carried + t * width + j, context + load(y + j) * carry_scale * load(carry_gain + j));
        }
    }
}

/* Where a pixel of `size` lies between two tokens of `grid` along one side, as torch's bilinear interpolation has it. */
INLINE float between(int64_t pixel, int64_t size, int64_t grid, int64_t *first, int64_t *second) {
    float place = ((float)pixel + 0.5f) * ((float)grid / (float)size) - 0.5f;
    place = place > 0 ? place : 0;
    *first = (int64_t)place < grid - 1 ? (int64_t)place : grid - 1;
    *second = *first + (*first < grid - 1);
    return place - (float)*first;
}

/* One row of a grid between two of its rows, in numbers. */
INLINE void blend(const float *first, const float *second, float weight, float *to, int64_t numbers) {
    for (int64_t j = 0; j < numbers; j += LANES) {
        lanes x = load(first + j);
        store(to + j, x + weight * (load(second + j) - x));
    }
}

/* x, local, out (batch, H, W, C); gate, shift (batch, h, w, C), brought up bilinearly: out = x + shift + local gate.
 * There may be no shift. share: 2 w C. */
void convneur_join(const float *x, const float *local, const float *gate, const float *shift, float *out, float *room,
                   int64_t share, int threads, int64_t batch, int64_t height, int64_t width, int64_t channels,
                   int64_t grid_height, int64_t grid_width) {
    const int64_t numbers = grid_width * channels;
#pragma omp parallel for num_threads(threads) collapse(2)
    for (int64_t image = 0; image < batch; image++)
        for (int64_t row = 0; row < height; row++) {
            int64_t first, second;
            const float down = between(row, height, grid_height, &first, &second);
            const int64_t at = (image * height + row) * width * channels;
            float *gates = room + omp_get_thread_num() * share, *shifts = gates + numbers;
            first = (image * grid_height + first) * numbers, second = (image * grid_height + second) * numbers;
            blend(gate + first, gate + second, down, gates, numbers);
            if (shift) blend(shift + first, shift + second, down, shifts, numbers);
            for (int64_t column = 0; column < width; column++) {
                const float along = between(column, width, grid_width, &first, &second);
                const float *left = gates + first * channels, *right = gates + second * channels;
                const int64_t pixel = at + column * channels;
                for (int64_t j = 0; j < channels; j += LANES) {
                    const lanes opened = load(left + j) + along * (load(right + j) - load(left + j));
                    lanes sum = load(x + pixel + j) + load(local + pixel + j) * opened;
                    if (shift) {
                        const lanes near = load(left + numbers + j);
                        sum += near + along * (load(right + numbers + j) - near);
                    }
                    store(out + pixel + j, sum);
                }
            }
        }
}
