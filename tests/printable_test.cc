#include "base/printable.h"

#include <gtest/gtest.h>

namespace thaw {
namespace {

using std::string_view_literals::operator""sv;

TEST(Printable, OrdinaryTextStaysAsItIs) {
  for (const std::string_view text :
       {""sv, "snapshot-1 [a,b] {} %s%n"sv, "C:\\dir \"q\""sv, "für 日本 🙂 \u00a0"sv}) {
    EXPECT_EQ(printable(text), text);
    EXPECT_TRUE(is_utf8(text));
  }
}

TEST(Printable, WhatATerminalObeysIsEscaped) {
  EXPECT_EQ(printable("a\x1b[31mred\nnext\r\t\x7f\0z"sv), "a\\x1b[31mred\\nnext\\r\\t\\x7f\\x00z");
  EXPECT_EQ(printable("\u0085\u009b31m"), "\\u0085\\u009b31m");
  EXPECT_EQ(printable("\u202egnp.exe\u2066\u2028\u200b\ufeff\u061c"),
            "\\u202egnp.exe\\u2066\\u2028\\u200b\\ufeff\\u061c");
  EXPECT_EQ(printable("\U000e0041"), "\\U000e0041");
}

TEST(Printable, BytesThatAreNoUtf8AreEscapedOneByOne) {
  for (const auto& [text, shown] : std::initializer_list<std::pair<std::string_view, std::string>>{
           {"no\xff/x"sv, "no\\xff/x"},
           {"\x9b"sv, "\\x9b"},                             // a control character of Latin-1
           {"\xc3"sv, "\\xc3"},                             // ends too early
           {"\xe2\x82x"sv, "\\xe2\\x82x"},                  // is broken off
           {"\xc0\x8a"sv, "\\xc0\\x8a"},                    // a newline in too many bytes
           {"\xe0\x80\x8a"sv, "\\xe0\\x80\\x8a"},           // in still more
           {"\xed\xa0\x80"sv, "\\xed\\xa0\\x80"},           // a surrogate
           {"\xf4\x90\x80\x80"sv, "\\xf4\\x90\\x80\\x80"},  // beyond the last character
           {"\xf8\x88\x80\x80\x80"sv, "\\xf8\\x88\\x80\\x80\\x80"}}) {
    EXPECT_EQ(printable(text), shown);
    EXPECT_FALSE(is_utf8(text)) << shown;
  }
}

TEST(Printable, EveryByteAloneAndEveryPairBecomesPrintable) {
  for (int first = 0; first < 256; ++first) {
    for (int second = 0; second < 256; ++second) {
      const std::string shown =
          printable(std::string{static_cast<char>(first), static_cast<char>(second)});
      EXPECT_TRUE(is_utf8(shown));
      EXPECT_EQ(printable(shown), shown);
    }
  }
}

}  // namespace
}  // namespace thaw
