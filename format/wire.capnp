@0xd4c1b7a3e9f05216;

# Messages between page servers and their peers, and the stored manifest. FORMAT.md says how they
# are framed and what each answers. A field is never renumbered or reused.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("thaw::schema");

struct Message {
  requestId @0 :UInt64;

  union {
    # Requests.
    hello @1 :Hello;
    beginPush @2 :BeginPush;
    offer @3 :Offer;
    upload @4 :Upload;
    commit @5 :Void;
    listSnapshots @6 :ListSnapshots;
    showSnapshot @7 :Text;
    deleteSnapshot @8 :Text;
    getPageMap @9 :GetPageMap;
    getChunks @10 :List(UInt64);
    getStatistics @11 :Void;

    # Replies.
    error @12 :ErrorReply;
    welcome @13 :Welcome;
    done @14 :Void;
    needed @15 :Needed;
    manifest @16 :Void;
    snapshots @17 :Snapshots;
    pageMapSegment @18 :Void;
    chunks @19 :UInt32;
    statistics @20 :Statistics;

    # Working sets; their requests name a snapshot by its id.
    putRecording @22 :UInt64;
    getRecording @23 :RecordingKey;
    getWorkingSet @24 :UInt64;
    showWorkingSet @25 :UInt64;
    dropWorkingSet @26 :UInt64;
    getPack @27 :PackKey;
    putPrefetchReport @28 :PrefetchReport;
    recording @29 :Void;
    workingSet @30 :Void;
    pack @31 :Void;
    workingSetReport @32 :WorkingSetReport;

    # Looking after what is stored.
    moveTag @33 :Tag;
    removeTag @34 :Text;
    listTags @35 :Text;
    changeLabels @36 :ChangeLabels;
    getUsage @37 :Text;
    getNamespace @38 :Void;
    setNamespace @39 :NamespaceSettings;
    startJob @40 :StartJob;
    getJob @41 :UInt64;
    stopJob @42 :UInt64;
    pin @43 :UInt64;
    unpin @44 :UInt64;
    tags @45 :Tags;
    usage @46 :Usage;
    namespace @47 :NamespaceReport;
    job @48 :JobReport;

    # Which pages of guest memory are brought last.
    getColdMap @50 :UInt64;
    coldMap @51 :Void;

    # What came damaged.
    reportDamage @52 :DamageReport;

    # Takes away what beginPush and setNamespace make.
    removeNamespace @53 :Void;

    # What the pages of a segment are that are not zero.
    getPageHashes @54 :GetPageMap;
    pageHashes @55 :Void;
  }

  # getChunks: so many ids at the end are wanted only if they are at hand.
  optionalChunks @21 :UInt16;
  # deleteSnapshot: one that restores are using goes when the last of them has ended.
  whenUnused @49 :Bool;
}

enum Role {
  control @0;
  demand @1;
  prefetch @2;
}

struct Hello {
  version @0 :UInt16;
  role @1 :Role;
  namespace @2 :Text;
}

struct Welcome {
  version @0 :UInt16;
  store @1 :Data;  # 16 bytes, not all zero
}

struct ErrorReply {
  code @0 :UInt16;
  text @1 :Text;
}

struct Region {
  sizeBytes @0 :UInt64;
  offset @1 :UInt64;
  pageBytes @2 :UInt64;
}

struct Label {
  key @0 :Text;
  value @1 :Text;
}

struct BeginPush {
  name @0 :Text;
  memoryBytes @1 :UInt64;
  stateBytes @2 :UInt64;
  regions @3 :List(Region);
  labels @4 :List(Label);
  cpuVendor @5 :Text;
  parent @6 :Text;  # name; empty: none
}

struct Offer {
  firstPage @0 :UInt64;
  pageCount @1 :UInt32;
  zeroBitmap @2 :Data;  # bit i: page firstPage + i is zero
  keptBitmap @3 :Data;  # bit i: it is the parent's; empty: none is
}

struct Needed {
  missingBitmap @0 :Data;  # bit i: the i-th offered hash must be uploaded
}

struct Upload {
  count @0 :UInt32;
}

struct ListSnapshots {
  after @0 :Text;
}

struct Snapshots {
  manifestBytes @0 :List(UInt32);
  more @1 :Bool;
  outdated @2 :List(OutdatedSnapshot);
}

struct OutdatedSnapshot {
  snapshot @0 :UInt64;
  sinceUnixMs @1 :UInt64;
}

struct GetPageMap {
  snapshot @0 :UInt64;
  segment @1 :UInt32;
}

struct Statistics {
  snapshots @0 :UInt64;
  logicalBytes @1 :UInt64;
  zeroBytes @2 :UInt64;
  chunks @3 :UInt64;
  chunkBytes @4 :UInt64;
  connections @5 :UInt64;
  chunksServed @6 :UInt64;
  uptimeSeconds @7 :UInt64;
  packBytes @8 :UInt64;
  packsServed @9 :UInt64;
  documentBytes @10 :UInt64;
  recordingBytes @11 :UInt64;
}

struct RecordingKey {
  snapshot @0 :UInt64;
  number @1 :UInt64;
}

struct PackKey {
  snapshot @0 :UInt64;
  generation @1 :UInt64;
  number @2 :UInt32;
}

struct PrefetchReport {
  snapshot @0 :UInt64;
  counters @1 :PrefetchCounters;
}

struct PrefetchCounters {
  sessions @0 :UInt64;
  setPages @1 :UInt64;
  prefetchedPages @2 :UInt64;
  latePages @3 :UInt64;
  faults @4 :UInt64;
  bytes @5 :UInt64;
}

struct RecordingSummary {
  number @0 :UInt64;
  createdUnixMs @1 :UInt64;
  pages @2 :UInt32;
  setPages @3 :UInt32;
  setHits @4 :UInt32;
}

struct WorkingSetReport {
  recordings @0 :List(RecordingSummary);
  totals @1 :PrefetchCounters;
}

struct Tag {
  tag @0 :Text;   # name:tag
  name @1 :Text;  # of the snapshot
}

struct Tags {
  tags @0 :List(Tag);
  more @1 :Bool;
}

struct ChangeLabels {
  name @0 :Text;
  set @1 :List(Label);
  remove @2 :List(Text);
}

struct Usage {
  snapshots @0 :UInt64;
  logicalBytes @1 :UInt64;
  zeroBytes @2 :UInt64;
  duplicateBytes @3 :UInt64;
  uniqueBytes @4 :UInt64;
  storedBytes @5 :UInt64;
  exclusiveBytes @6 :UInt64;
}

struct NamespaceSettings {
  quotaBytes @0 :UInt64;
  quotaSnapshots @1 :UInt64;
  keepLast @2 :UInt64;
  keepSeconds @3 :UInt64;
  keepPerLabel @4 :Text;
}

struct NamespaceReport {
  settings @0 :NamespaceSettings;
  snapshots @1 :UInt64;
  storedBytes @2 :UInt64;
  recordedBytes @3 :UInt64;
  recordedShare @4 :UInt64;
}

enum JobKind {
  collect @0;
  scrub @1;
  retain @2;
  backup @3;
  compact @4;
}

enum JobState {
  running @0;
  done @1;
  failed @2;
}

struct StartJob {
  kind @0 :JobKind;
  dryRun @1 :Bool;
  target @2 :Text;
  atOnce @3 :Bool;
}

struct JobCounter {
  name @0 :Text;
  value @1 :UInt64;
}

struct JobReport {
  number @0 :UInt64;
  kind @1 :JobKind;
  state @2 :JobState;
  done @3 :UInt64;
  total @4 :UInt64;
  error @5 :ErrorReply;
  counters @6 :List(JobCounter);
  findings @7 :List(Text);
}

struct DamageReport {
  chunks @0 :List(UInt64);
  snapshot @1 :UInt64;  # whose page map or working set came damaged; 0: none
  packs @2 :List(PackKey);
}

struct Manifest {
  name @0 :Text;
  snapshot @1 :UInt64;
  parent @2 :UInt64;
  createdUnixMs @3 :UInt64;
  memoryBytes @4 :UInt64;
  stateBytes @5 :UInt64;
  regions @6 :List(Region);
  labels @7 :List(Label);
  cpuVendor @8 :Text;
  contentHash @9 :Data;
  zeroPages @10 :UInt64;
  duplicatePages @11 :UInt64;
  newPages @12 :UInt64;
  newChunkBytes @13 :UInt64;
  changedPages @14 :UInt64;
  becameZeroPages @15 :UInt64;
  coldPages @16 :UInt64;
  contentForm @17 :UInt16;  # 0: flat, 1: by segments
}
