#pragma once

#include "format/schema_codec.h"
#include "format/wire.h"

namespace thaw {

/// The codecs of those messages that look after what is stored, for wire.cc: one overload for each
/// that has fields. What read_...() refuses is kTooLarge or kMalformed.

using MessageBuilder = schema::Message::Builder;
using MessageReader = schema::Message::Reader;

void write(const message::MoveTag& from, MessageBuilder to);
void write(const message::RemoveTag& from, MessageBuilder to);
void write(const message::ListTags& from, MessageBuilder to);
void write(const message::ChangeLabels& from, MessageBuilder to);
void write(const message::GetUsage& from, MessageBuilder to);
void write(const message::GetNamespace& from, MessageBuilder to);
void write(const message::RemoveNamespace& from, MessageBuilder to);
void write(const message::SetNamespace& from, MessageBuilder to);
void write(const message::StartJob& from, MessageBuilder to);
void write(const message::GetJob& from, MessageBuilder to);
void write(const message::StopJob& from, MessageBuilder to);
void write(const message::Pin& from, MessageBuilder to);
void write(const message::Unpin& from, MessageBuilder to);
void write(const message::ReportDamage& from, MessageBuilder to);
void write(const message::Tags& from, MessageBuilder to);
void write(const message::Usage& from, MessageBuilder to);
void write(const message::NamespaceReport& from, MessageBuilder to);
void write(const message::JobReport& from, MessageBuilder to);

void write_error(const message::ErrorReply& from, schema::ErrorReply::Builder to);
Result<message::ErrorReply> read_error(schema::ErrorReply::Reader from);

Result<message::ChangeLabels> read_change_labels(schema::ChangeLabels::Reader from);
message::NamespaceSettings read_settings(schema::NamespaceSettings::Reader from);
Result<message::StartJob> read_start_job(schema::StartJob::Reader from);
Result<message::ReportDamage> read_damage(schema::DamageReport::Reader from);
Result<message::Tags> read_tags(schema::Tags::Reader from);
message::Tag read_tag(schema::Tag::Reader from);
message::Usage read_usage(schema::Usage::Reader from);
message::NamespaceReport read_namespace_report(schema::NamespaceReport::Reader from);
Result<message::JobReport> read_job_report(schema::JobReport::Reader from);

}  // namespace thaw
