// Scaled dot-product attention for AVX-512, one block of queries at a time. The softmax is computed online (Milakov,
// Gimelshein 2018, arXiv 1805.02867), so that no row of the attention matrix exists as a whole.
//
// Owns the arithmetic. Each element type has a translation unit of its own, which includes this file once and is
// compiled for the instructions that the type needs. The caller enters it only after checking the CPU. So nothing here
// may be an inline function that other translation units share.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "attention.h"

namespace {

constexpr int64_t WIDTH = ATTENTION_HEAD_WIDTH;
constexpr int64_t QUERIES = ATTENTION_BLOCK_QUERIES;
// Keys of a register tile: four vectors.
constexpr int64_t CHUNK = ATTENTION_CHUNK_KEYS;
// Keys per step of the softmax. The scores and weights of a block of queries then stay in the first-level cache.
constexpr int64_t STEP = 256;
// Queries of a register tile. Six times four accumulators, four vectors of keys or values and one broadcast fill 32
// registers.
constexpr int ROWS = 6;
constexpr int VECTORS = 4;
static_assert(CHUNK == 16 * VECTORS && WIDTH == 16 * VECTORS && QUERIES % ROWS == 0 && STEP % CHUNK == 0);

// Computes 2^x for x <= 0. The integer part goes into the exponent, and a polynomial computes the rest (relative error
// 2e-7). scalef flushes tiny results to zero by itself.
inline __m512 power_of_two(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 part = _mm512_sub_ps(x, whole); // -1/2 to 1/2
    __m512 power = _mm512_set1_ps(1.535336188e-4f);
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(1.339887440e-3f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(9.618437357e-3f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(5.550332471e-2f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(2.402264791e-1f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(6.931472028e-1f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(power, whole);
}

// Computes `scores[row][key] = query[row] . key` for a tile of ROWS_ queries and one packed chunk of keys.
template <typename Type, int ROWS_>
inline void score_tile(const typename Type::Element* query, int64_t query_stride, const typename Type::Word* keys, float* scores) {
    __m512 sum[ROWS_][VECTORS];
#pragma GCC unroll 6
    for (int row = 0; row < ROWS_; row++)
#pragma GCC unroll 4
        for (int vector = 0; vector < VECTORS; vector++) sum[row][vector] = _mm512_setzero_ps();
    for (int64_t word = 0; word < WIDTH / Type::ELEMENTS; word++) {
        __m512 key[VECTORS];
#pragma GCC unroll 4
        for (int vector = 0; vector < VECTORS; vector++) key[vector] = _mm512_load_ps(keys + word * CHUNK + vector * 16);
#pragma GCC unroll 6
        for (int row = 0; row < ROWS_; row++) {
            const __m512 asking = Type::broadcast(query + row * query_stride + word * Type::ELEMENTS);
#pragma GCC unroll 4
            for (int vector = 0; vector < VECTORS; vector++)
                sum[row][vector] = Type::multiply_add(sum[row][vector], asking, key[vector]);
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < ROWS_; row++)
#pragma GCC unroll 4
        for (int vector = 0; vector < VECTORS; vector++)
            _mm512_store_ps(scores + row * STEP + vector * 16, sum[row][vector]);
}

// Computes `mixed[row] += sum over keys of weight[row][key] value[key]` for a tile of ROWS_ queries.
template <typename Type, int ROWS_>
inline void mix_tile(const typename Type::Element* weights, const typename Type::Word* values, int64_t keys, float* mixed) {
    __m512 sum[ROWS_][VECTORS];
#pragma GCC unroll 6
    for (int row = 0; row < ROWS_; row++)
#pragma GCC unroll 4
        for (int vector = 0; vector < VECTORS; vector++)
            sum[row][vector] = _mm512_load_ps(mixed + row * WIDTH + vector * 16);
    for (int64_t word = 0; word < keys / Type::ELEMENTS; word++) {
        __m512 value[VECTORS];
#pragma GCC unroll 4
        for (int vector = 0; vector < VECTORS; vector++) value[vector] = _mm512_load_ps(values + word * WIDTH + vector * 16);
#pragma GCC unroll 6
        for (int row = 0; row < ROWS_; row++) {
            const __m512 weight = Type::broadcast(weights + row * STEP + word * Type::ELEMENTS);
#pragma GCC unroll 4
            for (int vector = 0; vector < VECTORS; vector++)
                sum[row][vector] = Type::multiply_add(sum[row][vector], weight, value[vector]);
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < ROWS_; row++)
#pragma GCC unroll 4
        for (int vector = 0; vector < VECTORS; vector++)
            _mm512_store_ps(mixed + row * WIDTH + vector * 16, sum[row][vector]);
}

template <typename Type>
inline void score_rows(int64_t rows, const typename Type::Element* query, int64_t stride, const typename Type::Word* keys, float* scores) {
    switch (rows) {
        case 1: return score_tile<Type, 1>(query, stride, keys, scores);
        case 2: return score_tile<Type, 2>(query, stride, keys, scores);
        case 3: return score_tile<Type, 3>(query, stride, keys, scores);
        case 4: return score_tile<Type, 4>(query, stride, keys, scores);
        case 5: return score_tile<Type, 5>(query, stride, keys, scores);
        default: return score_tile<Type, ROWS>(query, stride, keys, scores);
    }
}

template <typename Type>
inline void mix_rows(int64_t rows, const typename Type::Element* weights, const typename Type::Word* values, int64_t keys, float* mixed) {
    switch (rows) {
        case 1: return mix_tile<Type, 1>(weights, values, keys, mixed);
        case 2: return mix_tile<Type, 2>(weights, values, keys, mixed);
        case 3: return mix_tile<Type, 3>(weights, values, keys, mixed);
        case 4: return mix_tile<Type, 4>(weights, values, keys, mixed);
        case 5: return mix_tile<Type, 5>(weights, values, keys, mixed);
        default: return mix_tile<Type, ROWS>(weights, values, keys, mixed);
    }
}

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Computes one query's weights for the keys of a step, `exp(scale (score - largest))`. If the step raises the maximum,
// the sums made so far are scaled to the new maximum.
template <typename Type>
inline void weigh(const float* scores, int64_t keys, float factor, float& largest, float& total, float* mixed,
                  typename Type::Element* weights) {
    __m512 maximum = _mm512_load_ps(scores);
    for (int64_t key = 16; key < keys; key += 16) maximum = _mm512_max_ps(maximum, _mm512_load_ps(scores + key));
    const float before = largest;
    const float here = _mm512_reduce_max_ps(maximum);
    largest = here > before ? here : before;
    const __m512 scale = _mm512_set1_ps(factor);
    const __m512 top = _mm512_set1_ps(largest);
    __m512 sum = _mm512_setzero_ps();
    for (int64_t key = 0; key < keys; key += 32) {
        const __m512 low = power_of_two(_mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(scores + key), top), scale));
        const __m512 high = power_of_two(_mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(scores + key + 16), top), scale));
        sum = _mm512_add_ps(sum, _mm512_add_ps(low, high));
        Type::store(weights + key, low, high);
    }
    if (largest > before) {
        const __m512 shrink = power_of_two(_mm512_set1_ps((before - largest) * factor)); // 0 at the first step
        total *= _mm512_cvtss_f32(shrink);
        for (int64_t element = 0; element < WIDTH; element += 16)
            _mm512_store_ps(mixed + element, _mm512_mul_ps(_mm512_load_ps(mixed + element), shrink));
    }
    total += _mm512_reduce_add_ps(sum);
}

// Computes the attention of one block: at most QUERIES queries against all keys and values of one head.
template <typename Type>
void attend_block(const AttentionBlock& block) {
    using Element = typename Type::Element;
    using Word = typename Type::Word;
    alignas(64) float scores[QUERIES * STEP];
    alignas(64) Element weights[QUERIES * STEP];
    alignas(64) float mixed[QUERIES * WIDTH];
    float largest[QUERIES];
    float total[QUERIES];
    memset(mixed, 0, sizeof mixed);
    for (int64_t row = 0; row < QUERIES; row++) {
        largest[row] = -3.0e38f; // below any score, and finite, so that no difference is NaN
        total[row] = 0.0f;
    }
    const Element* query = static_cast<const Element*>(block.query);
    const Word* keys = static_cast<const Word*>(block.keys);
    const Word* values = static_cast<const Word*>(block.values);
    const float factor = block.scale * 1.44269504f; // exp(x) = 2^(x log2 e)

    for (int64_t first = 0; first < block.key_count; first += STEP) {
        const int64_t real = least(block.key_count - first, STEP);
        const int64_t padded = (real + CHUNK - 1) / CHUNK * CHUNK;
        for (int64_t chunk = 0; chunk < padded; chunk += CHUNK) {
            const Word* packed = keys + (first + chunk) * (WIDTH / Type::ELEMENTS);
            for (int64_t row = 0; row < block.query_count; row += ROWS)
                score_rows<Type>(least(block.query_count - row, ROWS), query + row * block.query_stride, block.query_stride,
                                 packed, scores + row * STEP + chunk);
        }
        for (int64_t row = 0; row < block.query_count; row++) {
            for (int64_t key = real; key < padded; key++) scores[row * STEP + key] = -3.0e38f;
            weigh<Type>(scores + row * STEP, padded, factor, largest[row], total[row], mixed + row * WIDTH,
                        weights + row * STEP);
        }
        for (int64_t row = 0; row < block.query_count; row += ROWS)
            mix_rows<Type>(least(block.query_count - row, ROWS), weights + row * STEP,
                           values + first * (WIDTH / Type::ELEMENTS), padded, mixed + row * WIDTH);
    }
    Element* output = static_cast<Element*>(block.output);
    for (int64_t row = 0; row < block.query_count; row++) {
        const __m512 share = _mm512_set1_ps(1.0f / total[row]);
        for (int64_t element = 0; element < WIDTH; element += 32) {
            const float* from = mixed + row * WIDTH + element;
            Type::store(output + row * block.output_stride + element, _mm512_mul_ps(_mm512_load_ps(from), share),
                        _mm512_mul_ps(_mm512_load_ps(from + 16), share));
        }
    }
}

} // namespace
