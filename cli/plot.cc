#include "cli/plot.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include <fmt/format.h>

namespace thaw {

namespace {

// The picture, in pixels. What is plotted lies on a grid of dots.
constexpr int kWidth = 900;
constexpr int kHeight = 500;
constexpr int kDot = 2;
constexpr int kLeft = 84;
constexpr int kTop = 76;
constexpr int kColumns = 396;
constexpr int kRows = 182;
constexpr int kRight = kLeft + kColumns * kDot;
constexpr int kBottom = kTop + kRows * kDot;
static_assert(kRight < kWidth && kBottom < kHeight);

constexpr std::size_t kMostTitle = 90;  // characters
constexpr std::uint32_t kLeastSpanUs = 1000;

/// Media queries are what lets one file suit light and dark pages.
constexpr std::string_view kStyle = R"(<style>
text{font-family:system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-size:13px;
fill:#57606a}
.paper{fill:#ffffff}.title{font-size:17px;font-weight:600;fill:#1f2328}
.middle{text-anchor:middle}.end{text-anchor:end}
.grid{stroke:#e4e8ec}.frame{stroke:#8c959f;fill:none}
.dots{fill:none;stroke-width:1.4;stroke-linecap:square}
.prefetch{stroke:#3b8fde}.demand{stroke:#d9480f}.key{stroke-width:10}
@media (prefers-color-scheme:dark){
text{fill:#9aa4af}.paper{fill:#0d1117}.title{fill:#e6edf3}.grid{stroke:#21262d}
.frame{stroke:#6e7681}
.prefetch{stroke:#58a6ff}.demand{stroke:#ff9248}}
</style>
)";

std::string escaped(std::string_view text) {
  std::string safe;
  for (const char c : text) {
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      default:
        safe += c >= ' ' && c <= '~' ? c : '?';
    }
  }
  return safe;
}

/// A number with its thousands set apart: "12,345".
std::string grouped(std::uint64_t number) {
  std::string text = std::to_string(number);
  for (std::size_t at = text.size(); at > 3;) text.insert(at -= 3, 1, ',');
  return text;
}

/// What an axis shows: [0, span) of pages or microseconds on so many dots, and its ticks.
struct Axis {
  std::uint64_t span;
  int dots;
  double unit;  // of the labels
  std::string_view unit_name;
  double step;  // from tick to tick

  int dot_of(std::uint64_t value) const {
    return static_cast<int>(value * static_cast<std::uint64_t>(dots) / span);
  }
  int ticks() const { return static_cast<int>(static_cast<double>(span) / step) + 1; }
  /// Pixels of a tick from the axis' origin.
  double place_of(int tick) const { return tick * step / static_cast<double>(span) * dots * kDot; }
  std::string label_of(int tick) const { return fmt::format("{:.6g}", tick * step / unit); }
};

/// The smallest of 1, 2 and 5 times a power of ten that makes at most so many steps.
double decimal_step(double span, double most_steps) {
  double power = std::pow(10.0, std::floor(std::log10(span / most_steps)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (power * factor * most_steps >= span) return power * factor;
  }
  return power * 10;
}

Axis time_axis(const Recording& recording) {
  const std::uint64_t last = recording.touches.empty() ? 0 : recording.touches.back().us;
  const std::uint64_t span = std::max<std::uint64_t>(kLeastSpanUs, last + last / 50) + 1;
  const bool seconds = span > 2'000'000;
  return {.span = span,
          .dots = kColumns,
          .unit = seconds ? 1e6 : 1e3,
          .unit_name = seconds ? "s" : "ms",
          .step = decimal_step(static_cast<double>(span), 10)};
}

Axis memory_axis(const Recording& recording, PageCount memory) {
  std::uint64_t pages = std::max<std::uint64_t>(memory.value, 1);
  for (const Touch& touch : recording.touches) pages = std::max(pages, touch.page.value + 1);
  std::uint64_t step = 1;
  while (step * 8 < pages) step *= 2;
  constexpr double kPagesPerMib = 256;
  static_assert(256 * kPageBytes == 1u << 20);
  Axis axis{.span = pages,
            .dots = kRows,
            .unit = kPagesPerMib / 1024,
            .unit_name = "KiB",
            .step = static_cast<double>(step)};
  if (axis.step >= kPagesPerMib) axis.unit = kPagesPerMib, axis.unit_name = "MiB";
  if (axis.step >= kPagesPerMib * 1024) axis.unit = kPagesPerMib * 1024, axis.unit_name = "GiB";
  return axis;
}

/// The dots of one kind of touch.
class Dots {
 public:
  void add(int column, int row) { set_[index(column, row)] = true; }

  /// As the data of one path: a stroke for each row of neighbours, placed relative to the end of
  /// the one before. Strokes begin and end in the middle of a dot; their caps do the rest.
  std::string path() const {
    std::string data;
    int column = 0;
    int row = 0;
    for (int next_row = 0; next_row < kRows; ++next_row) {
      for (int next = 0; next < kColumns; ++next) {
        if (!set_[index(next, next_row)]) continue;
        int last = next;
        while (last + 1 < kColumns && set_[index(last + 1, next_row)]) ++last;
        fmt::format_to(std::back_inserter(data), "{}{} {}h{}", data.empty() ? 'M' : 'm',
                       next - column, next_row - row, last - next);
        column = next = last;
        row = next_row;
      }
    }
    return data;
  }

 private:
  static std::size_t index(int column, int row) {
    return static_cast<std::size_t>(row) * kColumns + static_cast<std::size_t>(column);
  }

  std::vector<bool> set_ = std::vector<bool>(std::size_t{kRows} * kColumns);
};

class Picture {
 public:
  Picture(std::string_view title) {
    const std::string shown =
        escaped(title.size() <= kMostTitle ? title : title.substr(0, kMostTitle));
    add(R"(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}" )"
        R"(role="img">)"
        "\n<title>{2}</title>\n",
        kWidth, kHeight, shown);
    text_ += kStyle;
    add(R"(<rect class="paper" width="{}" height="{}" rx="6"/>)", kWidth, kHeight);
    add(R"(<text class="title" x="{}" y="32">{}</text>)", kLeft, shown);
    text_ += '\n';
  }

  void draw_axes(const Axis& time, const Axis& memory) {
    for (int tick = 0; tick < time.ticks(); ++tick) {
      const double x = kLeft + time.place_of(tick);
      add(R"(<path class="grid" d="M{:.1f} {}V{}"/>)", x, kTop, kBottom);
      add(R"(<text class="middle" x="{:.1f}" y="{}">{}</text>)", x, kBottom + 19,
          time.label_of(tick));
    }
    for (int tick = 0; tick < memory.ticks(); ++tick) {
      const double y = kBottom - memory.place_of(tick);
      add(R"(<path class="grid" d="M{} {:.1f}H{}"/>)", kLeft, y, kRight);
      add(R"(<text class="end" x="{}" y="{:.1f}">{}</text>)", kLeft - 8, y + 4.5,
          memory.label_of(tick));
    }
    add(R"(<path class="frame" d="M{} {}V{}H{}"/>)", kLeft, kTop, kBottom, kRight);
    add(R"(<text class="middle" x="{}" y="{}">time since the handover ({})</text>)",
        (kLeft + kRight) / 2, kBottom + 44, time.unit_name);
    add(R"svg(<text class="middle" transform="translate(24 {}) rotate(-90)">)svg"
        "page of guest memory ({})</text>",
        (kTop + kBottom) / 2, memory.unit_name);
    text_ += '\n';
  }

  void draw_dots(std::string_view kind, const Dots& dots) {
    add(R"svg(<path class="dots {}" transform="translate({} {}) scale({})" d="{}"/>)svg", kind,
        kLeft + kDot / 2, kTop + kDot / 2, kDot, dots.path());
    text_ += '\n';
  }

  /// An entry of the legend; they stand side by side.
  void draw_key(std::string_view kind, std::string_view meaning, std::uint64_t pages) {
    constexpr int kWidthOfCharacter = 7;
    const std::string label =
        fmt::format("{}: {} page{}", meaning, grouped(pages), pages == 1 ? "" : "s");
    add(R"(<path class="key {}" d="M{} 54h10"/><text x="{}" y="58.5">{}</text>)", kind, key_x_,
        key_x_ + 16, label);
    key_x_ += 16 + kWidthOfCharacter * static_cast<int>(label.size()) + 24;
  }

  void draw_note(std::string_view note) {
    add(R"(<text class="middle" x="{}" y="{}">{}</text>)", (kLeft + kRight) / 2,
        (kTop + kBottom) / 2, note);
  }

  std::string finish() && { return std::move(text_) + "</svg>\n"; }

 private:
  template <typename... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
  }

  std::string text_;
  int key_x_ = kLeft;
};

}  // namespace

std::string plot_svg(const Recording& recording, PageCount memory, std::string_view title) {
  const Axis time = time_axis(recording);
  const Axis pages = memory_axis(recording, memory);
  std::array<Dots, 2> dots;
  std::array<std::uint64_t, 2> counts{};
  for (const Touch& touch : recording.touches) {
    const auto kind = static_cast<std::size_t>(touch.kind);
    dots[kind].add(time.dot_of(touch.us), kRows - 1 - pages.dot_of(touch.page.value));
    ++counts[kind];
  }
  constexpr auto kDemand = static_cast<std::size_t>(TouchKind::kDemand);
  constexpr auto kPrefetch = static_cast<std::size_t>(TouchKind::kPrefetch);

  Picture picture(title);
  picture.draw_axes(time, pages);
  picture.draw_key("demand", "the guest asked for it", counts[kDemand]);
  if (counts[kPrefetch] > 0) {
    picture.draw_key("prefetch", "brought before it asked", counts[kPrefetch]);
    picture.draw_dots("prefetch", dots[kPrefetch]);
  }
  // On top: a page that the guest had to wait for is what one looks for.
  if (counts[kDemand] > 0) picture.draw_dots("demand", dots[kDemand]);
  if (recording.touches.empty()) picture.draw_note("no page was touched");
  return std::move(picture).finish();
}

}  // namespace thaw
