// The attention of attention_kernel.h in bfloat16, with sums and softmax in float32. Compiled for AVX-512 F, BW, VL and
// BF16.

#include "attention_kernel.h"

namespace {

// Multiplies and adds two elements at once: each lane holds a pair.
struct Bfloat16 {
    using Element = uint16_t;
    using Word = float;
    static constexpr int64_t ELEMENTS = 2;

    static __m512 broadcast(const uint16_t* pair) {
        float lane;
        memcpy(&lane, pair, sizeof lane);
        return _mm512_set1_ps(lane);
    }

    static __m512 multiply_add(__m512 sum, __m512 a, __m512 b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

    static void store(uint16_t* to, __m512 low, __m512 high) {
        _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
};

} // namespace

// Packs keys as [chunks, 32 pairs of elements, 64 keys] and values as [pairs of keys, 64 elements]. The padding is
// zero.
void attention_pack_bfloat16(const AttentionPacking& packing) {
    const uint16_t* key = static_cast<const uint16_t*>(packing.key);
    const uint16_t* value = static_cast<const uint16_t*>(packing.value);
    uint32_t* keys = static_cast<uint32_t*>(packing.keys);
    uint32_t* values = static_cast<uint32_t*>(packing.values);
    const int64_t padded = (packing.key_count + CHUNK - 1) / CHUNK * CHUNK;
    for (int64_t place = 0; place < padded; place++) {
        uint32_t* column = keys + place / CHUNK * CHUNK * (WIDTH / 2) + place % CHUNK;
        uint32_t row[WIDTH / 2] = {};
        if (place < packing.key_count) memcpy(row, key + place * packing.key_stride, sizeof row);
        for (int64_t pair = 0; pair < WIDTH / 2; pair++) column[pair * CHUNK] = row[pair];
    }
    for (int64_t place = 0; place < padded; place += 2) {
        for (int64_t element = 0; element < WIDTH; element += 16) {
            const auto of = [&](int64_t place) {
                if (place >= packing.key_count) return _mm512_setzero_si512();
                const uint16_t* from = value + place * packing.value_stride + element;
                return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
            };
            const __m512i both = _mm512_or_si512(of(place), _mm512_slli_epi32(of(place + 1), 16));
            _mm512_store_si512(values + place / 2 * WIDTH + element, both);
        }
    }
}

void attention_block_bfloat16(const AttentionBlock& block) { attend_block<Bfloat16>(block); }
