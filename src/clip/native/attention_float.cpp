// The attention of attention_kernel.h in float32. Compiled for AVX-512 F.

#include "attention_kernel.h"

namespace {

struct Float {
    using Element = float;
    // The content of one lane of a packed vector.
    using Word = float;
    static constexpr int64_t ELEMENTS = 1;

    static __m512 broadcast(const float* element) { return _mm512_set1_ps(*element); }

    static __m512 multiply_add(__m512 sum, __m512 a, __m512 b) { return _mm512_fmadd_ps(a, b, sum); }

    static void store(float* to, __m512 low, __m512 high) {
        _mm512_storeu_ps(to, low);
        _mm512_storeu_ps(to + 16, high);
    }
};

} // namespace

// Packs keys as [chunks, 64 elements, 64 keys] and copies values row by row. The padding is zero.
void attention_pack_float(const AttentionPacking& packing) {
    const float* key = static_cast<const float*>(packing.key);
    const float* value = static_cast<const float*>(packing.value);
    float* keys = static_cast<float*>(packing.keys);
    float* values = static_cast<float*>(packing.values);
    const int64_t padded = (packing.key_count + CHUNK - 1) / CHUNK * CHUNK;
    for (int64_t place = 0; place < padded; place++) {
        float* column = keys + place / CHUNK * CHUNK * WIDTH + place % CHUNK;
        const bool real = place < packing.key_count;
        for (int64_t element = 0; element < WIDTH; element++)
            column[element * CHUNK] = real ? key[place * packing.key_stride + element] : 0.0f;
        if (real)
            memcpy(values + place * WIDTH, value + place * packing.value_stride, WIDTH * sizeof(float));
        else
            memset(values + place * WIDTH, 0, WIDTH * sizeof(float));
    }
}

void attention_block_float(const AttentionBlock& block) { attend_block<Float>(block); }
