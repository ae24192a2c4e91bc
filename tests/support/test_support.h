#pragma once

#include <array>
#include <optional>
#include <ostream>
#include <random>

#include <gtest/gtest.h>
#include <sys/types.h>

#include "base/bytes.h"
#include "base/error.h"
#include "tests/support/scratch_directory.h"

namespace thaw {

/// How gtest prints a code.
inline void PrintTo(ErrorCode code, std::ostream* to) { *to << error_name(code); }

}  // namespace thaw

namespace thaw::test {

/// The code of a failure; nothing for a success.
template <typename T>
std::optional<ErrorCode> code_of(const Result<T>& result) {
  if (result) return std::nullopt;
  return result.error().code();
}

/// Turns a failure into a test failure with its text.
template <typename T>
testing::AssertionResult succeeded(const Result<T>& result) {
  if (result) return testing::AssertionSuccess();
  return testing::AssertionFailure() << result.error().message();
}

/// A generator for one test. Its seed is new at every run, printed, and set again by the
/// environment variable THAW_TEST_SEED.
std::mt19937_64 seeded_generator();

/// How many times longer than usual a random test goes on: THAW_TEST_SCALE, or 1.
unsigned test_scale();

/// A number in [0, below).
inline std::uint64_t pick(std::mt19937_64& generator, std::uint64_t below) {
  return std::uniform_int_distribution<std::uint64_t>(0, below - 1)(generator);
}

/// One of the entries, as likely as its `weight` says.
template <typename Entry, std::size_t kCount>
const Entry& pick_weighted(std::mt19937_64& generator, const std::array<Entry, kCount>& entries) {
  std::uint64_t all = 0;
  for (const Entry& entry : entries) all += entry.weight;
  std::uint64_t place = pick(generator, all);
  const Entry* picked = entries.data();
  for (; place >= picked->weight; ++picked) place -= picked->weight;
  return *picked;
}

Bytes random_bytes(std::mt19937_64& generator, std::size_t size);

/// Whether the process exists and is no zombie, which waits for its parent alone.
bool is_running(pid_t pid);

}  // namespace thaw::test
