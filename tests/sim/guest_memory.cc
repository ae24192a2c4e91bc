#include "tests/sim/guest_memory.h"

#include <algorithm>
#include <string_view>

#include "base/check.h"
#include "format/chunk.h"

namespace thaw::sim {

Content content_of(ByteSpan page) {
  if (is_zero_page(page.first<kPageBytes>())) return kZeroContent;
  return std::hash<std::string_view>()(as_text(page)) | 1;
}

void GuestMemory::map(HostAddress address, PageIndex page) {
  pages_.emplace(
      address.value,
      Page{.index = page, .registered = true, .content = {}, .expected = snapshot_[page.value]});
  places_[page.value] = address;
}

void GuestMemory::unmap(HostAddress address) {
  const auto found = pages_.find(address.value);
  if (found == pages_.end()) return;
  places_[found->second.index.value].reset();
  pages_.erase(found);
}

void GuestMemory::move(HostAddress from, HostAddress to) {
  auto node = pages_.extract(from.value);
  CHECK(!node.empty() && !pages_.contains(to.value));
  node.key() = to.value;
  places_[node.mapped().index.value] = to;
  pages_.insert(std::move(node));
}

GuestMemory::Page* GuestMemory::find(HostAddress address) {
  const auto found = pages_.find(address.value / kPageBytes * kPageBytes);
  return found != pages_.end() ? &found->second : nullptr;
}

std::string GuestMemory::name_of(Content content) const {
  if (content == kZeroContent) return "zeros";
  const auto found = std::ranges::find(snapshot_, content);
  if (found == snapshot_.end()) return fmt::format("content {:#x}", content);
  return fmt::format("page {} of the snapshot", found - snapshot_.begin());
}

void GuestMemory::fill(Page& page, Content content, const char* by) {
  page.content = content;
  schedule_.note("page {} is filled with {} by {}", page.index.value, name_of(content), by);
  if (content == page.expected || (page.removals > 0 && content == kZeroContent)) return;
  schedule_.violate(fmt::format("page {} was filled with {} by {}, and must have {}",
                                page.index.value, name_of(content), by, name_of(page.expected)));
}

void GuestMemory::read(Page& page) {
  if (*page.content != page.expected && (page.removals == 0 || *page.content != kZeroContent)) {
    schedule_.violate(fmt::format("the guest reads {} in page {}, which must have {}",
                                  name_of(*page.content), page.index.value,
                                  name_of(page.expected)));
  }
  page.expected = *page.content;  // from here on it is that, until it goes
}

void GuestMemory::write(Page& page, Content content) { page.expected = *(page.content = content); }

void GuestMemory::zap(Page& page) {
  page.content.reset();
  page.expected = kZeroContent;
}

}  // namespace thaw::sim
