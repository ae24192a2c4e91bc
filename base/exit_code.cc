#include "base/exit_code.h"

namespace thaw {

int exit_code_for(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return 2;
    case ErrorCode::kNotFound:
      return 3;
    case ErrorCode::kUnavailable:
    case ErrorCode::kTimeout:
      return 4;
    case ErrorCode::kAlreadyExists:
    case ErrorCode::kBusy:
      return 5;
    default:
      return 1;
  }
}

int server_exit_code_for(ErrorCode code) { return code == ErrorCode::kInvalidArgument ? 2 : 1; }

}  // namespace thaw
