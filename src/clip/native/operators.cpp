// Operators on libtorch's tensors that tch does not bind: oneDNN's linear layers with packed weights, and attention by
// the kernels beside this file.
//
// Owns the boundary between C++ and C. Every function that computes returns null or an error message, which the caller
// frees with maskclip_free_message. mod.rs says what each pointer means.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <string_view>

#include "attention.h"

namespace {

// Weights are packed for this number of rows. oneDNN chooses the same layout from 8 rows to thousands. For a single row
// it would choose another one, which is slower for all other numbers.
constexpr int64_t ROWS = 1024;

template <typename Function>
typename c10::TypedOperatorHandle<Function> find(const char* name, const char* overload = "") {
    return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).typed<Function>();
}

template <typename Body>
char* guarded(Body body) {
    try {
        body();
        return nullptr;
    } catch (const std::exception& error) {
        return strdup(error.what());
    } catch (...) {
        return strdup("an exception of an unknown type");
    }
}

// Turns a null pointer into an absent bias.
std::optional<at::Tensor> optional(const at::Tensor* tensor) {
    return tensor ? std::optional<at::Tensor>(*tensor) : std::nullopt;
}

bool has_attention(at::ScalarType type) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool vectors = __builtin_cpu_supports("avx512f");
    const bool halves =
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16");
    return type == at::kFloat ? vectors : type == at::kBFloat16 && vectors && halves;
#else
    (void)type;
    return false;
#endif
}

#if defined(__x86_64__)
struct Kernel {
    void (*pack)(const AttentionPacking&);
    void (*attend)(const AttentionBlock&);
};

// Returns the address of element `[batch][head][0][0]`.
const char* head_of(const at::Tensor& part, int64_t batch, int64_t head) {
    const int64_t offset = batch * part.stride(0) + head * part.stride(1);
    return static_cast<const char*>(part.const_data_ptr()) + offset * part.element_size();
}

// Attends from queries `[batch, heads, queries, 64]` to keys and values `[batch, heads, tokens, 64]`. The result has
// the shape of the queries. The parts may have any strides, but the last stride must be 1.
at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, double scale, Kernel kernel) {
    const int64_t batch = query.size(0), heads = query.size(1), queries = query.size(2);
    const int64_t tokens = key.size(2);
    const int64_t padded = (tokens + ATTENTION_CHUNK_KEYS - 1) / ATTENTION_CHUNK_KEYS * ATTENTION_CHUNK_KEYS;
    const int64_t packed_bytes = padded * ATTENTION_HEAD_WIDTH * query.element_size();
    const at::Tensor packed = at::empty({2, batch * heads, packed_bytes}, query.options().dtype(at::kByte));
    char* const keys = static_cast<char*>(packed.mutable_data_ptr());
    char* const values = keys + batch * heads * packed_bytes;
    // The heads lie side by side again, as the following projection needs them.
    const at::Tensor output = at::empty({batch, queries, heads, ATTENTION_HEAD_WIDTH}, query.options());
    char* const mixed = static_cast<char*>(output.mutable_data_ptr());

    at::parallel_for(0, batch * heads, 1, [&](int64_t begin, int64_t end) {
        for (int64_t head = begin; head < end; head++)
            kernel.pack({head_of(key, head / heads, head % heads), key.stride(2), head_of(value, head / heads, head % heads),
                         value.stride(2), tokens, keys + head * packed_bytes, values + head * packed_bytes});
    });
    const int64_t blocks = (queries + ATTENTION_BLOCK_QUERIES - 1) / ATTENTION_BLOCK_QUERIES;
    at::parallel_for(0, batch * heads * blocks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t unit = begin; unit < end; unit++) {
            const int64_t head = unit / blocks, first = unit % blocks * ATTENTION_BLOCK_QUERIES;
            const int64_t place = ((head / heads * queries + first) * heads + head % heads) * ATTENTION_HEAD_WIDTH;
            kernel.attend({head_of(query, head / heads, head % heads) + first * query.stride(2) * query.element_size(),
                           query.stride(2), std::min(queries - first, ATTENTION_BLOCK_QUERIES), keys + head * packed_bytes,
                           values + head * packed_bytes, tokens, static_cast<float>(scale),
                           mixed + place * query.element_size(), heads * ATTENTION_HEAD_WIDTH});
        }
    });
    return output.transpose(1, 2); // [batch, queries, heads, 64] -> [batch, heads, queries, 64]
}
#endif

} // namespace

extern "C" {

void maskclip_free_message(char* message) { free(message); }

// Returns whether this CPU supports packed linear layers, in bfloat16 if the argument is true, otherwise in float32.
bool maskclip_packs_linear(bool bfloat16) {
    if (!at::globalContext().hasMKLDNN()) return false;
    try {
        return !bfloat16 || find<bool()>("mkldnn::_is_mkldnn_bf16_supported").call();
    } catch (...) {
        return false; // this libtorch lacks the operator
    }
}

char* maskclip_pack_linear(const at::Tensor* weight, at::Tensor** packed) {
    return guarded([&] {
        static const auto reorder = find<at::Tensor(const at::Tensor&, std::optional<int64_t>)>("mkldnn::_reorder_linear_weight");
        *packed = new at::Tensor(reorder.call(*weight, ROWS));
    });
}

char* maskclip_linear(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias, const char* activation,
                      at::Tensor** result) {
    return guarded([&] {
        static const auto linear =
            find<at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                            c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>)>("mkldnn::_linear_pointwise");
        // "none" selects the exact GELU; the other activations have no variants.
        *result = new at::Tensor(linear.call(*x, *weight, optional(bias), activation, c10::List<std::optional<at::Scalar>>(), "none"));
    });
}

char* maskclip_linear_added(const at::Tensor* x, const at::Tensor* other, const at::Tensor* weight, const at::Tensor* bias,
                            at::Tensor** result) {
    return guarded([&] {
        static const auto linear =
            find<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                            std::string_view)>("mkldnn::_linear_pointwise", "binary");
        *result = new at::Tensor(linear.call(*x, *other, *weight, optional(bias), "add"));
    });
}

// Returns whether this CPU supports the attention kernel, in bfloat16 if the argument is true, otherwise in float32.
bool maskclip_has_attention(bool bfloat16) { return has_attention(bfloat16 ? at::kBFloat16 : at::kFloat); }

char* maskclip_attention(const at::Tensor* query, const at::Tensor* key, const at::Tensor* value, double scale,
                         at::Tensor** result) {
    return guarded([&] {
#if defined(__x86_64__)
        for (const at::Tensor* part : {query, key, value})
            TORCH_CHECK(part->dim() == 4 && part->size(3) == ATTENTION_HEAD_WIDTH && part->stride(3) == 1 &&
                            part->is_cpu() && part->scalar_type() == query->scalar_type() &&
                            part->size(0) == query->size(0) && part->size(1) == query->size(1),
                        "queries, keys and values do not fit each other");
        TORCH_CHECK(key->size(2) > 0 && key->size(2) == value->size(2), "attention needs as many values as keys, and at least one");
        TORCH_CHECK(has_attention(query->scalar_type()), "no attention kernel for this type and CPU");
        const Kernel kernel = query->scalar_type() == at::kFloat ? Kernel{attention_pack_float, attention_block_float}
                                                                 : Kernel{attention_pack_bfloat16, attention_block_bfloat16};
        *result = new at::Tensor(attention(*query, *key, *value, scale, kernel));
#else
        TORCH_CHECK(false, "attention kernels are for x86-64");
#endif
    });
}
}
