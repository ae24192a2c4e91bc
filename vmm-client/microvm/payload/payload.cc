// What runs in the guest, in ring 3 and with nothing below it. Each vCPU links its part of the
// structure to one random cycle, then walks that for ever and changes what it visits. After each
// round it prints a line, whose checksum follows from all that it has read and from registers.
//
// The compiler is told to leave the SSE and x87 registers alone, so what the assembly here keeps in
// them is nowhere in memory: a restore that lost them would change every later checksum.

#include <cstddef>

#include "vmm-client/microvm/payload/parameters.h"

namespace thaw::payload {

namespace {

using Word = std::uint64_t;

struct Node {
  Word next;
  Word value;
  Word others[6];
};
static_assert(sizeof(Node) == kNodeBytes);

/// Set while a vCPU prints.
std::uint32_t printing = 0;

Word parameter(Word offset) {
  Word value;
  asm volatile("movq %%fs:(%1), %0" : "=r"(value) : "r"(offset));
  return value;
}

[[noreturn]] void exit_vm(std::uint32_t code) {
  while (true) asm volatile("outl %0, %w1" : : "a"(code), "Nd"(kExitPort));
}

/// splitmix64
class Random {
 public:
  explicit Random(Word seed) : state_(seed) {}
  Word next() {
    Word z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

 private:
  Word state_;
};

/// One random cycle through all nodes (Sattolo).
void link(Node* nodes, Word count, Random& random) {
  for (Word i = 0; i < count; ++i) {
    nodes[i].next = i;
    nodes[i].value = random.next();
    for (Word& other : nodes[i].others) other = random.next();
  }
  for (Word i = count - 1; i > 0; --i) {
    const Word j = random.next() % i;
    const Word next = nodes[i].next;
    nodes[i].next = nodes[j].next;
    nodes[j].next = next;
  }
}

/// Fills all SSE registers and the x87 stack's top, and sets rounding modes that are not the usual.
void fill_vector_registers(Word seed) {
  const std::uint32_t mxcsr = 0x7f80;
  const std::uint16_t x87_control = 0x0f7f;
  asm volatile(
      "ldmxcsr %1\n"
      "fninit\n"
      "fldcw %2\n"
      "fldpi\n"
      "movq %0, %%xmm0\n"
      "pshufd $0x14, %%xmm0, %%xmm0\n"
      ".irp n, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
      "  paddq %%xmm0, %%xmm0\n"
      "  movdqa %%xmm0, %%xmm\\n\n"
      ".endr\n"
      :
      : "r"(seed), "m"(mxcsr), "m"(x87_control));
}

/// Mixes 16 bytes into the first SSE register, and each register into the next.
Word mix(const Node& node) {
  Word last;
  asm volatile(
      "movdqu %1, %%xmm0\n"
      "paddq %%xmm15, %%xmm0\n"
      "pxor %%xmm0, %%xmm1\n"
      "paddq %%xmm1, %%xmm2\n"
      "pxor %%xmm2, %%xmm3\n"
      "paddq %%xmm3, %%xmm4\n"
      "pxor %%xmm4, %%xmm5\n"
      "paddq %%xmm5, %%xmm6\n"
      "pxor %%xmm6, %%xmm7\n"
      "paddq %%xmm7, %%xmm8\n"
      "pxor %%xmm8, %%xmm9\n"
      "paddq %%xmm9, %%xmm10\n"
      "pxor %%xmm10, %%xmm11\n"
      "paddq %%xmm11, %%xmm12\n"
      "pxor %%xmm12, %%xmm13\n"
      "paddq %%xmm13, %%xmm14\n"
      "pxor %%xmm14, %%xmm15\n"
      "movq %%xmm15, %0\n"
      : "=r"(last)
      : "m"(node));
  return last;
}

/// The rounding modes and the top of the x87 stack.
Word other_floating_point() {
  std::uint32_t mxcsr;
  std::uint16_t x87_control;
  Word top;
  asm volatile(
      "stmxcsr %0\n"
      "fnstcw %1\n"
      "fstl %2\n"
      : "=m"(mxcsr), "=m"(x87_control), "=m"(top));
  return top ^ mxcsr ^ Word { x87_control } << 32;
}

Word rotate(Word value, unsigned by) { return value << by | value >> (64 - by); }

struct Walk {
  Word at = 0;
  Word sum = 0;
};

void walk(Node* nodes, Word steps, Walk& walk) {
  Word at = walk.at;
  Word sum = walk.sum;
  Word product = 1;
  Word crossed = 0;
  for (Word i = 0; i < steps; ++i) {
    Node& node = nodes[at];
    const Word mixed = mix(node);
    sum = rotate(sum + node.value, 13) ^ mixed;
    product = (product + mixed) * 0x9e3779b97f4a7c15;
    crossed ^= product + sum;
    node.value = sum + crossed;
    at = node.next;
  }
  walk = {at, sum ^ product ^ rotate(crossed, 29) ^ other_floating_point()};
}

class Line {
 public:
  void add(const char* text) {
    while (*text != '\0') text_[size_++] = *text++;
  }
  void add_decimal(Word number) {
    if (number >= 10) add_decimal(number / 10);
    text_[size_++] = static_cast<char>('0' + number % 10);
  }
  void add_hexadecimal(Word number) {
    for (unsigned shift = 64; shift > 0; shift -= 4) {
      text_[size_++] = "0123456789abcdef"[number >> (shift - 4) & 15];
    }
  }
  /// As one line, also when other vCPUs print.
  void print() {
    text_[size_++] = '\n';
    while (__atomic_exchange_n(&printing, 1, __ATOMIC_ACQUIRE) != 0) asm volatile("pause");
    const char* from = text_;
    Word left = size_;
    asm volatile("rep outsb" : "+S"(from), "+c"(left) : "d"(kSerialPort) : "memory");
    __atomic_store_n(&printing, 0, __ATOMIC_RELEASE);
  }

 private:
  char text_[96];
  Word size_ = 0;
};

}  // namespace

extern "C" [[noreturn]] void run_payload(Word vcpu, Word vcpus) {
  const Word steps = parameter(offsetof(Parameters, steps));
  const Word count = parameter(offsetof(Parameters, structure_bytes)) / vcpus / kNodeBytes;
  if (count < 2 || steps == 0) exit_vm(kBadParameters);
  // SAFETY: the VMM has this memory for the structure.
  Node* const nodes =
      reinterpret_cast<Node*>(parameter(offsetof(Parameters, structure))) + vcpu * count;
  Random random(parameter(offsetof(Parameters, seed)) + vcpu);
  link(nodes, count, random);
  fill_vector_registers(random.next());
  Walk so_far;
  for (Word round = 1;; ++round) {
    walk(nodes, parameter(offsetof(Parameters, steps)), so_far);
    Line line;
    line.add("vcpu ");
    line.add_decimal(vcpu);
    line.add(" round ");
    line.add_decimal(round);
    line.add(" checksum ");
    line.add_hexadecimal(so_far.sum);
    line.print();
  }
}

/// At kLoadAddress. The VMM has set up a stack that is aligned as at a call.
extern "C" [[noreturn, gnu::naked, gnu::section(".text.entry")]] void start() {
  asm volatile("call run_payload");
}

}  // namespace thaw::payload
