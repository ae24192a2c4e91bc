#pragma once

/// KVM's structures. In C++ the kernel's macro for arrays at the end of a structure adds an empty
/// member of one byte: sizes, offsets and so the numbers of the ioctls would be wrong. So everybody
/// includes this header instead of the kernel's.

#include <linux/types.h>
#undef __DECLARE_FLEX_ARRAY
// NOLINTNEXTLINE(bugprone-reserved-identifier): the kernel chose the name
#define __DECLARE_FLEX_ARRAY(type, name) type name[0]
#include <linux/kvm.h>

static_assert(sizeof(kvm_cpuid2) == 8 && sizeof(kvm_msrs) == 8 && sizeof(kvm_msr_list) == 4);
