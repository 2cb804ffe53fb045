// The interface between the attention kernels and their caller.
#pragma once

#include <cstdint>

// Elements of a query, key or value of one head. Nearly all CLIP models have this width.
constexpr int64_t ATTENTION_HEAD_WIDTH = 64;
// Most queries of a block.
constexpr int64_t ATTENTION_BLOCK_QUERIES = 24;
// Packed keys and values are padded to a multiple of this.
constexpr int64_t ATTENTION_CHUNK_KEYS = 64;

// One block of queries of one head. Strides count elements.
struct AttentionBlock {
    const void* query; // [query_count, 64]
    int64_t query_stride;
    int64_t query_count; // 1 to ATTENTION_BLOCK_QUERIES
    const void* keys;    // packed
    const void* values;  // packed
    int64_t key_count;   // at least 1
    float scale;
    void* output; // [query_count, 64]
    int64_t output_stride;
};

// The keys and values of one head and the buffers for their packed copies. Each buffer holds the padded number of keys
// times 64 elements.
struct AttentionPacking {
    const void* key; // [key_count, 64]
    int64_t key_stride;
    const void* value; // [key_count, 64]
    int64_t value_stride;
    int64_t key_count;
    void* keys;
    void* values;
};

// For float32 elements, on a CPU with AVX-512 F.
void attention_pack_float(const AttentionPacking& packing);
void attention_block_float(const AttentionBlock& block);

// For bfloat16 elements, on a CPU with AVX-512 F, BW, VL and BF16.
void attention_pack_bfloat16(const AttentionPacking& packing);
void attention_block_bfloat16(const AttentionBlock& block);
