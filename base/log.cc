#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace thaw {

namespace {

spdlog::level::level_enum spdlog_level(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

}  // namespace

void start_logging(std::string_view program, LogLevel least) {
  auto logger = spdlog::stderr_logger_mt(std::string(program));
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %n %l %v");
  logger->set_level(spdlog_level(least));
  spdlog::set_default_logger(std::move(logger));
}

void log_line(LogLevel level, std::string_view line) {
  spdlog::default_logger_raw()->log(spdlog_level(level),
                                    spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace thaw
