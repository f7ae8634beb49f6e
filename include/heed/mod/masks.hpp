/// Masks that are given by a few numbers: causal, window, dilated, prefix_lm, padding; and two that read tables of
/// tokens: global_window, image_cross. classify() of all of them is exact (empty and full are told whenever they are
/// true), except where it says otherwise.
#pragma once

#include <heed/config.hpp>
#include <heed/core/error.hpp>
#include <heed/mod/position.hpp>
#include <heed/mod/scalar.hpp>
#include <heed/mod/table.hpp>

HEED_ARCH_BEGIN

/// A query sees the keys up to its own position.   visible = kv <= q
struct causal : mask_base {
  static constexpr bool interval_keys = true;

  template <class Index>
  HEED_INLINE auto operator()(const basic_position<Index>& at) const noexcept {
    return at.q >= at.kv;
  }

  tile_class classify(int, int, int q0, int q1, int k0, int k1) const noexcept {
    return detail::class_of(k0 > q1 - 1, k1 - 1 <= q0);
  }

  key_range keys(int, int, int, int q1) const noexcept { return {INT_MIN, q1}; }
};

/// A band around the diagonal.   visible = -left <= kv - q <= right
/// left, right: at least 0; -1 means unbounded on that side. {w, 0} is a causal window of w + 1 keys.
/// Throws heed::invalid_argument: left or right below -1.
class window : public mask_base {
 public:
  static constexpr bool interval_keys = true;

  window(index_t left, index_t right) : left_(reach("left", left)), right_(reach("right", right)) {}

  // Bounds on q, not on the difference: they are plain numbers, and nothing overflows.
  template <class Index>
  HEED_INLINE auto operator()(const basic_position<Index>& at) const noexcept {
    return detail::both(at.q >= detail::to_position(at.kv - right_), at.q <= detail::to_position(at.kv + left_));
  }

  tile_class classify(int, int, int q0, int q1, int k0, int k1) const noexcept {
    const index_t least = index_t(k0) - (index_t(q1) - 1), most = index_t(k1) - 1 - q0;
    return detail::class_of(least > right_ || most < -left_, least >= -left_ && most <= right_);
  }

  key_range keys(int, int, int q0, int q1) const noexcept {
    return {detail::to_position(q0 - left_), detail::to_position(q1 + right_)};
  }

 private:
  /// Wider than the distance of any two positions.
  static constexpr index_t unbounded = index_t(1) << 40;

  static index_t reach(const char* argument, index_t given) {
    detail::checker("window").require(given >= -1, argument, "at least 0, or -1 for unbounded", given);
    return given < 0 || given > unbounded ? unbounded : given;
  }

  index_t left_, right_;
};

/// Every `step`-th key of a band.   visible = abs(kv - q) <= reach and (kv - q) % step == 0
/// reach: at least 0; step: at least 1. The causal form is `heed::causal{} & heed::dilated{reach, step}`.
/// Nearly all of its tiles are partial. Alone or beside other masks it is cheaper as dilated_forward, which runs the
/// residues as separate problems.
/// Throws heed::invalid_argument: reach < 0, step < 1.
class dilated : public mask_base {
 public:
  dilated(int reach, int step) : step_(step) {
    const detail::checker check("dilated");
    check.require(reach >= 0, "reach", "at least 0", reach);
    check.require(step >= 1, "step", "at least 1", step);
    reach_ = reach - reach % step;
  }

  template <class Index>
  HEED_INLINE auto operator()(const basic_position<Index>& at) const noexcept {
    return detail::both(
        detail::both(at.q >= detail::to_position(at.kv - reach_), at.q <= detail::to_position(at.kv + reach_)),
        floor_mod(at.q, step_) == floor_mod(at.kv, step_));
  }

  tile_class classify(int, int, int q0, int q1, int k0, int k1) const noexcept {
    const index_t least = index_t(k0) - (index_t(q1) - 1), most = index_t(k1) - 1 - q0;
    const index_t low = least > -reach_ ? least : -reach_, high = most < reach_ ? most : reach_;
    const bool has_multiple = floor_div(high, step_) >= -floor_div(-low, step_);
    const bool has_all = (step_ == 1 || least == most) && least >= -reach_ && most <= reach_;
    return detail::class_of(!has_multiple, has_all);
  }

  key_range keys(int, int, int q0, int q1) const noexcept {
    return {detail::to_position(q0 - reach_), detail::to_position(q1 + reach_)};
  }

 private:
  index_t reach_;
  int step_;
};

/// A prefix that everyone sees, causal after it.   visible = kv < prefix or kv <= q
/// prefix: one number, or a table [B] of std::int32_t with one for each batch entry (a container or view that outlives
/// the mask; an entry that it does not have counts as 0).
/// Throws heed::invalid_argument: a negative prefix.
class prefix_lm : public mask_base {
 public:
  static constexpr bool interval_keys = true;

  explicit prefix_lm(batch_number prefix) : prefix_(prefix) {
    detail::checker("prefix_lm").require(prefix.smallest() >= 0, "prefix", "at least 0", prefix.smallest());
  }

  template <class Index>
  HEED_INLINE auto operator()(const basic_position<Index>& at) const noexcept {
    return at.q >= (at.kv < prefix_(at.b) ? INT_MIN : at.kv);
  }

  tile_class classify(int b, int, int q0, int q1, int k0, int k1) const noexcept {
    const int prefix = prefix_(b);
    return detail::class_of(k0 >= prefix && k0 > q1 - 1, k1 - 1 < prefix || k1 - 1 <= q0);
  }

  key_range keys(int b, int, int, int q1) const noexcept { return {INT_MIN, max(prefix_(b), q1)}; }

 private:
  batch_number prefix_;
};

/// The keys that exist, where entries of a batch are shorter than the tensor.   visible = begin <= kv < end
/// end, begin: one number, or a table [B] of std::int32_t as in prefix_lm; begin is for padding on the left.
class padding : public mask_base {
 public:
  static constexpr bool interval_keys = true;

  explicit padding(batch_number end) : begin_(INT_MIN), end_(end) {}
  padding(batch_number begin, batch_number end) : begin_(begin), end_(end) {}

  template <class Index>
  HEED_INLINE bool operator()(const basic_position<Index>& at) const noexcept {
    return at.kv >= begin_(at.b) && at.kv < end_(at.b);
  }

  tile_class classify(int b, int, int, int, int k0, int k1) const noexcept {
    const int begin = begin_(b), end = end_(b);
    return detail::class_of(k0 >= end || k1 <= begin || begin >= end, k0 >= begin && k1 <= end);
  }

  key_range keys(int b, int, int, int) const noexcept {
    const int begin = begin_(b);
    return {begin, max(begin, end_(b))};
  }

 private:
  batch_number begin_, end_;
};

/// A band, and tokens that see everything and are seen by all.
///     visible = -left <= kv - q <= right, or is_global[q] != 0, or is_global[kv] != 0
/// left, right: as in window. is_global: flags by position, [T] or [B,T] of std::int32_t; one table for queries and
/// keys, or one each. Positions outside the table are not global.
/// classify() reads the flags of the tile; not exact: a tile of which some pairs are global is partial.
/// Throws heed::invalid_argument: left or right below -1.
class global_window : public mask_base {
 public:
  global_window(index_t left, index_t right, position_table is_global)
      : global_window(left, right, is_global, is_global) {}
  global_window(index_t left, index_t right, position_table is_global_q, position_table is_global_kv)
      : band_(left, right), global_q_(is_global_q), global_kv_(is_global_kv) {}

  template <class Index>
  HEED_INLINE auto operator()(const basic_position<Index>& at) const noexcept {
    if (lookup(global_kv_.row(at.b), at.kv, 0) != 0) return detail::everywhere(at.q, true);
    return detail::either(band_(at), detail::lookup_integer(global_q_.row(at.b), at.q, 0) != 0);
  }

  tile_class classify(int b, int h, int q0, int q1, int k0, int k1) const noexcept {
    const tile_class band = band_.classify(b, h, q0, q1, k0, k1);
    const tile_class rows = count(global_q_.row(b), q0, q1), columns = count(global_kv_.row(b), k0, k1);
    return detail::class_of(band == tile_class::empty && rows == tile_class::empty && columns == tile_class::empty,
                            band == tile_class::full || rows == tile_class::full || columns == tile_class::full);
  }

 private:
  /// Whether none, all or some of the positions are global.
  static tile_class count(const view<const std::int32_t, 1>& flags, int begin, int end) noexcept {
    bool some = false, all = true;
    for (int i = begin; i < end && (all || !some); ++i) {
      const bool is_global = lookup(flags, i, 0) != 0;
      some |= is_global;
      all &= is_global;
    }
    return detail::class_of(!some, all);
  }

  window band_;
  position_table global_q_, global_kv_;
};

/// Text that looks at images: an image is seen by the text between its place and the next image's.
///     visible = start[image of kv] <= q < end[image of kv]
/// start, end: query positions by image, [images] or [B,images]. The image of a key: kv / tokens_per_image, or
/// image_of_key, a table by key position, [T] or [B,T]. All tables std::int32_t. Keys without an image are seen by
/// nobody.
/// classify() looks at the images of the tile.
/// Throws heed::invalid_argument: tokens_per_image < 1; start and end of different extents.
class image_cross : public mask_base {
 public:
  image_cross(position_table start, position_table end, int tokens_per_image)
      : start_(start), end_(end), tokens_(tokens_per_image) {
    detail::checker("image_cross").require(tokens_per_image >= 1, "tokens_per_image", "at least 1", tokens_per_image);
    check();
  }
  image_cross(position_table start, position_table end, position_table image_of_key)
      : start_(start), end_(end), images_(image_of_key), tokens_(0) {
    check();
  }

  template <class Index>
  HEED_INLINE auto operator()(const basic_position<Index>& at) const noexcept {
    const span seen = seen_by(at.b, image(at.b, at.kv));
    return detail::both(at.q >= seen.begin, at.q < seen.end);
  }

  tile_class classify(int b, int, int q0, int q1, int k0, int k1) const noexcept {
    bool some = false, all = true;
    for (int kv = k0, next; kv < k1 && (all || !some); kv = next) {
      const int i = image(b, kv);
      // With a fixed size the other keys of the image need no look.
      next = tokens_ > 0 && kv >= 0 ? detail::to_position((index_t(i) + 1) * tokens_) : kv + 1;
      const span seen = seen_by(b, i);
      some |= seen.begin < q1 && q0 < seen.end && seen.begin < seen.end;
      all &= seen.begin <= q0 && q1 <= seen.end;
    }
    return detail::class_of(!some, all);
  }

 private:
  struct span {
    int begin, end;
  };

  void check() const {
    const detail::checker check("image_cross");
    check.require(start_.length() == end_.length(), "end", "as many images as start", end_.length());
    check.require(start_.rows() == end_.rows(), "end", "as many batch entries as start", end_.rows());
  }

  HEED_INLINE int image(int b, int kv) const noexcept {
    return tokens_ > 0 ? floor_div(kv, tokens_) : lookup(images_.row(b), kv, -1);
  }
  HEED_INLINE span seen_by(int b, int image) const noexcept {
    return {lookup(start_.row(b), image, 0), lookup(end_.row(b), image, 0)};
  }

  position_table start_, end_, images_;
  int tokens_;
};

HEED_ARCH_END
