/// Masks of packed documents: a query sees the keys of its own document.
///
/// Ids are std::int32_t by position: [T] for all batch entries or [B,T], one table for queries and keys, or one each.
/// Positions outside a table belong to no document and see nothing. The tables must outlive the mask.
#pragma once

#include <heed/config.hpp>
#include <heed/core/error.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/core/tensor.hpp>
#include <heed/mod/compose.hpp>
#include <heed/mod/masks.hpp>
#include <heed/mod/position.hpp>
#include <heed/mod/scalar.hpp>
#include <heed/mod/table.hpp>

#include <utility>

HEED_ARCH_BEGIN
namespace detail {

/// The part of a range of positions that a table has.
struct table_part {
  int begin, end;
  bool cut;

  table_part(const view<const std::int32_t, 1>& table, int first, int last) noexcept
      : begin(max(first, 0)),
        end(to_position(min(index_t(last), table.extent(0)))),
        cut(begin != first || end != last) {}

  bool is_empty() const noexcept { return begin >= end; }
};

/// The first of [begin, end) whose id is not below `id` (above it, if `past`), of ascending ids.
inline int first_from(const view<const std::int32_t, 1>& ids, int begin, int end, int id, bool past = false) noexcept {
  while (begin < end) {
    const int middle = begin + (end - begin) / 2;
    if (ids[middle] < id || (past && ids[middle] == id))
      begin = middle + 1;
    else
      end = middle;
  }
  return begin;
}

}  // namespace detail

/// Ids of sequences that lie one after the other, [tokens]: s at positions cu_seqlens[s] .. cu_seqlens[s + 1] - 1.
///
///     const auto ids = heed::document_ids(cu_seqlens, N);
///     heed::ring_forward(ranks, q, k, v, out, {.layout = layout}, heed::causal{} & heed::sorted_document{ids});
///
/// Throws heed::invalid_argument: offsets that do not start at 0, that decrease, or whose last one is not `tokens`.
inline tensor<std::int32_t, 1> document_ids(sequence_offsets cu_seqlens, index_t tokens) {
  const detail::checker check("document_ids");
  const index_t sequences = cu_seqlens.size() - 1;
  check.require(sequences >= 0, "cu_seqlens", "at least one offset", "none");
  check.require(cu_seqlens.at(0) == 0, "cu_seqlens", "offsets that start at 0", cu_seqlens.at(0));
  for (index_t s = 0; s < sequences; ++s)
    check.require(cu_seqlens.at(s) <= cu_seqlens.at(s + 1), "cu_seqlens", "offsets that do not decrease",
                  cu_seqlens.at(s + 1));
  check.require(cu_seqlens.at(sequences) == tokens, "cu_seqlens", "as many tokens as there are",
                cu_seqlens.at(sequences));
  tensor<std::int32_t, 1> ids({tokens});
  for (index_t s = 0; s < sequences; ++s)
    for (index_t t = cu_seqlens.at(s); t < cu_seqlens.at(s + 1); ++t) ids(t) = static_cast<std::int32_t>(s);
  return ids;
}

/// Documents in any order.   visible = id[q] == id[kv]
/// classify() compares the ranges of the ids on both sides, reading each id of the tile's edges once; full is exact,
/// empty is not. Where ids ascend, sorted_document answers sooner and better.
class document : public mask_base {
 public:
  explicit document(position_table ids) noexcept : document(ids, ids) {}
  document(position_table q_ids, position_table kv_ids) noexcept : q_ids_(q_ids), kv_ids_(kv_ids) {}

  template <class Index>
  HEED_INLINE auto operator()(const basic_position<Index>& at) const noexcept {
    const view<const std::int32_t, 1> ids = kv_ids_.row(at.b);
    if (at.kv < 0 || at.kv >= ids.extent(0)) return detail::everywhere(at.q, false);
    const int id = ids[at.kv];
    // What lies outside the table of the queries gets some other id.
    return detail::lookup_integer(q_ids_.row(at.b), at.q, id ^ 1) == id;
  }

  tile_class classify(int b, int, int q0, int q1, int k0, int k1) const noexcept {
    const view<const std::int32_t, 1> q_ids = q_ids_.row(b), kv_ids = kv_ids_.row(b);
    const detail::table_part q(q_ids, q0, q1), kv(kv_ids, k0, k1);
    if (q.is_empty() || kv.is_empty()) return tile_class::empty;
    const extremes x(q_ids, q), y(kv_ids, kv);
    return detail::class_of(x.most < y.least || y.most < x.least,
                            !q.cut && !kv.cut && x.least == x.most && y.least == y.most);
  }

 private:
  struct extremes {
    std::int32_t least, most;

    extremes(const view<const std::int32_t, 1>& ids, const detail::table_part& part) noexcept
        : least(ids[part.begin]), most(least) {
      for (int i = part.begin + 1; i < part.end; ++i) {
        least = min(least, ids[i]);
        most = max(most, ids[i]);
      }
    }
  };

  position_table q_ids_, kv_ids_;
};

/// Documents one after the other: ids never descend with the position.   visible = id[q] == id[kv]
/// classify() is exact; it and keys() read a number of ids that grows with the logarithm of the tile and of the table.
/// Throws heed::invalid_argument: a descending id (reads all of both tables; only with HEED_DEBUG_CHECKS).
class sorted_document : public mask_base {
 public:
  static constexpr bool interval_keys = true;

  explicit sorted_document(position_table ids) : sorted_document(ids, ids) {}
  sorted_document(position_table q_ids, position_table kv_ids) : same_(q_ids, kv_ids), q_ids_(q_ids), kv_ids_(kv_ids) {
#if defined(HEED_DEBUG_CHECKS)
    require_ascending(q_ids, "q_ids");
    require_ascending(kv_ids, "kv_ids");
#endif
  }

  template <class Index>
  HEED_INLINE auto operator()(const basic_position<Index>& at) const noexcept {
    return same_(at);
  }

  tile_class classify(int b, int, int q0, int q1, int k0, int k1) const noexcept {
    const view<const std::int32_t, 1> q_ids = q_ids_.row(b), kv_ids = kv_ids_.row(b);
    const detail::table_part q(q_ids, q0, q1), kv(kv_ids, k0, k1);
    if (q.is_empty() || kv.is_empty()) return tile_class::empty;
    const int id = q_ids[q.begin];
    if (!q.cut && !kv.cut && q_ids[q.end - 1] == id && kv_ids[kv.begin] == id && kv_ids[kv.end - 1] == id)
      return tile_class::full;
    return share_a_document(q_ids, q, kv_ids, kv) ? tile_class::partial : tile_class::empty;
  }

  key_range keys(int b, int, int q0, int q1) const noexcept {
    const view<const std::int32_t, 1> q_ids = q_ids_.row(b), kv_ids = kv_ids_.row(b);
    const int length = detail::to_position(kv_ids.extent(0));
    const detail::table_part q(q_ids, q0, q1);
    if (q.is_empty()) return q0 < 0 ? key_range{0, 0} : key_range{length, length};
    const int begin = detail::first_from(kv_ids, 0, length, q_ids[q.begin]);
    return {begin, detail::first_from(kv_ids, begin, length, q_ids[q.end - 1], true)};
  }

 private:
  static bool share_a_document(const view<const std::int32_t, 1>& q_ids, const detail::table_part& q,
                               const view<const std::int32_t, 1>& kv_ids, const detail::table_part& kv) noexcept {
    for (int i = q.begin, j = kv.begin; i < q.end && j < kv.end;) {
      if (q_ids[i] == kv_ids[j]) return true;
      if (q_ids[i] < kv_ids[j])
        i = detail::first_from(q_ids, i, q.end, kv_ids[j]);
      else
        j = detail::first_from(kv_ids, j, kv.end, q_ids[i]);
    }
    return false;
  }

#if defined(HEED_DEBUG_CHECKS)
  static void require_ascending(const position_table& table, const char* argument) {
    for (index_t b = 0; b < table.rows(); ++b) {
      const view<const std::int32_t, 1> ids = table.row(static_cast<int>(b));
      for (index_t i = 1; i < ids.extent(0); ++i)
        detail::checker("sorted_document").require(ids[i - 1] <= ids[i], argument, "ids that never descend", ids[i]);
    }
  }
#endif

  document same_;
  position_table q_ids_, kv_ids_;
};

/// Documents that continue a common prefix, causal inside.   visible = kv in prefix(q), or id[q] == id[kv] and kv <= q
/// prefix: keys [0, prefix) are seen by all queries at positions >= prefix; one number, or a table [B]. Or begin, end:
/// tables by query position, [T] or [B,T], with the prefix of each query (equal entries: none). own: document or
/// sorted_document; the prefix itself needs an id of its own there.
/// classify() is not exact: it adds what it knows of the prefix, of the documents and of the causal order.
/// Throws heed::invalid_argument: a negative prefix; begin and end of different extents.
template <class Document>
class shared_prefix_document : public mask_base {
 public:
  shared_prefix_document(batch_number prefix, Document own) : own_(causal{}, std::move(own)), prefix_(prefix) {
    detail::checker("shared_prefix_document")
        .require(prefix.smallest() >= 0, "prefix", "at least 0", prefix.smallest());
  }
  shared_prefix_document(position_table begin, position_table end, Document own)
      : own_(causal{}, std::move(own)), prefix_(0), begin_(begin), end_(end), by_query_(true) {
    const detail::checker check("shared_prefix_document");
    check.require(begin.length() == end.length(), "end", "as many positions as begin", end.length());
    check.require(begin.rows() == end.rows(), "end", "as many batch entries as begin", end.rows());
  }

  template <class Index>
  HEED_INLINE auto operator()(const basic_position<Index>& at) const noexcept {
    return detail::either(in_prefix(at), own_(at));
  }

  tile_class classify(int b, int h, int q0, int q1, int k0, int k1) const noexcept {
    const tile_class prefix = classify_prefix(b, q0, q1, k0, k1);
    if (prefix == tile_class::full) return prefix;
    const tile_class own = own_.classify(b, h, q0, q1, k0, k1);
    return detail::class_of(prefix == tile_class::empty && own == tile_class::empty, own == tile_class::full);
  }

  key_range keys(int b, int h, int q0, int q1) const noexcept {
    key_range found = own_.keys(b, h, q0, q1);
    if (!by_query_) return q1 - 1 >= prefix_(b) ? detail::hull(found, {0, prefix_(b)}) : found;
    const view<const std::int32_t, 1> begin = begin_.row(b), end = end_.row(b);
    for (int q = q0; q < q1; ++q) found = detail::hull(found, {lookup(begin, q, 0), lookup(end, q, 0)});
    return found;
  }

 private:
  template <class Index>
  HEED_INLINE auto in_prefix(const basic_position<Index>& at) const noexcept {
    if (by_query_)
      return detail::both(detail::lookup_integer(begin_.row(at.b), at.q, 0) <= at.kv,
                          detail::lookup_integer(end_.row(at.b), at.q, 0) > at.kv);
    const int prefix = prefix_(at.b);
    return detail::both(at.q >= prefix, detail::everywhere(at.q, at.kv >= 0 && at.kv < prefix));
  }

  tile_class classify_prefix(int b, int q0, int q1, int k0, int k1) const noexcept {
    if (!by_query_) {
      const int prefix = prefix_(b);
      return detail::class_of(q1 - 1 < prefix || k0 >= prefix || k1 <= 0, q0 >= prefix && k0 >= 0 && k1 <= prefix);
    }
    const view<const std::int32_t, 1> begins = begin_.row(b), ends = end_.row(b);
    bool some = false, all = true;
    for (int q = q0; q < q1 && (all || !some); ++q) {
      const int begin = lookup(begins, q, 0), end = lookup(ends, q, 0);
      some |= begin < end && begin < k1 && k0 < end;
      all &= begin <= k0 && k1 <= end;
    }
    return detail::class_of(!some, all);
  }

  and_mask<causal, Document> own_;
  batch_number prefix_;
  position_table begin_, end_;
  bool by_query_ = false;
};

HEED_ARCH_END
