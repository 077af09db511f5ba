//! The names of wait events by class, number and version of PostgreSQL, as `pgstat_get_wait_event` of that version's server gives
//! them: of its last minor release by mid-2026, which may add names at the end, and changes none.

/// Names by number, with a space after each; `-` where a number has none.
pub type Row = &'static str;

/// The names of one major version.
#[derive(Debug)]
pub struct Names {
    /// Lightweight locks; beyond them are those of extensions.
    pub lwlocks: Row,
    /// Main loops.
    pub activities: Row,
    /// The other end.
    pub clients: Row,
    /// Other processes.
    pub ipc: Row,
    /// Time.
    pub timeouts: Row,
    /// Files.
    pub io: Row,
}

/// Heavyweight locks: the same numbers from PostgreSQL 9.6 on; the last one came with 16.
pub const LOCKS: Row = "\
    relation extend frozenid page tuple transactionid virtualxid spectoken object userlock advisory applytransaction";

/// PostgreSQL 14.23.
pub const V14: Names = Names {
    lwlocks: "\
        - ShmemIndex OidGen XidGen ProcArray SInvalRead SInvalWrite WALBufMapping WALWrite ControlFile - XactSLRU \
        SubtransSLRU MultiXactGen MultiXactOffsetSLRU MultiXactMemberSLRU RelCacheInit CheckpointerComm \
        TwoPhaseState TablespaceCreate BtreeVacuum AddinShmemInit Autovacuum AutovacuumSchedule SyncScan \
        RelationMapping NotifySLRU NotifyQueue SerializableXactHash SerializableFinishedList \
        SerializablePredicateList SerialSLRU SyncRep BackgroundWorker DynamicSharedMemoryControl AutoFile \
        ReplicationSlotAllocation ReplicationSlotControl CommitTsSLRU CommitTs ReplicationOrigin \
        MultiXactTruncation OldSnapshotTimeMap LogicalRepWorker XactTruncation - WrapLimitsVacuum NotifyQueueTail \
        XactBuffer CommitTsBuffer SubtransBuffer MultiXactOffsetBuffer MultiXactMemberBuffer NotifyBuffer \
        SerialBuffer WALInsert BufferContent ReplicationOriginState ReplicationSlotIO LockFastPath BufferMapping \
        LockManager PredicateLockManager ParallelHashJoin ParallelQueryDSA PerSessionDSA PerSessionRecordType \
        PerSessionRecordTypmod SharedTupleStore SharedTidBitmap ParallelAppend PerXactPredicateList",
    activities: "\
        ArchiverMain AutoVacuumMain BgWriterHibernate BgWriterMain CheckpointerMain LogicalApplyMain \
        LogicalLauncherMain PgStatMain RecoveryWalStream SysLoggerMain WalReceiverMain WalSenderMain WalWriterMain",
    clients: "\
        ClientRead ClientWrite GSSOpenServer LibPQWalReceiverConnect LibPQWalReceiverReceive SSLOpenServer \
        WalSenderWaitForWAL WalSenderWriteData",
    ipc: "\
        AppendReady BackendTermination BackupWaitWalArchive BgWorkerShutdown BgWorkerStartup BtreePage BufferIO \
        CheckpointDone CheckpointStart ExecuteGather HashBatchAllocate HashBatchElect HashBatchLoad \
        HashBuildAllocate HashBuildElect HashBuildHashInner HashBuildHashOuter HashGrowBatchesAllocate \
        HashGrowBatchesDecide HashGrowBatchesElect HashGrowBatchesFinish HashGrowBatchesRepartition \
        HashGrowBucketsAllocate HashGrowBucketsElect HashGrowBucketsReinsert LogicalSyncData \
        LogicalSyncStateChange MessageQueueInternal MessageQueuePutMessage MessageQueueReceive MessageQueueSend \
        ParallelBitmapScan ParallelCreateIndexScan ParallelFinish ProcArrayGroupUpdate ProcSignalBarrier Promote \
        RecoveryConflictSnapshot RecoveryConflictTablespace RecoveryPause ReplicationOriginDrop \
        ReplicationSlotDrop SafeSnapshot SyncRep WalReceiverExit WalReceiverWaitStart XactGroupUpdate",
    timeouts: "\
        BaseBackupThrottle PgSleep RecoveryApplyDelay RecoveryRetrieveRetryInterval VacuumDelay \
        CheckpointWriteDelay RegisterSyncRequest",
    io: "\
        BaseBackupRead BufFileRead BufFileWrite BufFileTruncate ControlFileRead ControlFileSync \
        ControlFileSyncUpdate ControlFileWrite ControlFileWriteUpdate CopyFileRead CopyFileWrite DataFileExtend \
        DataFileFlush DataFileImmediateSync DataFilePrefetch DataFileRead DataFileSync DataFileTruncate \
        DataFileWrite DSMFillZeroWrite LockFileAddToDataDirRead LockFileAddToDataDirSync LockFileAddToDataDirWrite \
        LockFileCreateRead LockFileCreateSync LockFileCreateWrite LockFileReCheckDataDirRead \
        LogicalRewriteCheckpointSync LogicalRewriteMappingSync LogicalRewriteMappingWrite LogicalRewriteSync \
        LogicalRewriteTruncate LogicalRewriteWrite RelationMapRead RelationMapSync RelationMapWrite \
        ReorderBufferRead ReorderBufferWrite ReorderLogicalMappingRead ReplicationSlotRead \
        ReplicationSlotRestoreSync ReplicationSlotSync ReplicationSlotWrite SLRUFlushSync SLRURead SLRUSync \
        SLRUWrite SnapbuildRead SnapbuildSync SnapbuildWrite TimelineHistoryFileSync TimelineHistoryFileWrite \
        TimelineHistoryRead TimelineHistorySync TimelineHistoryWrite TwophaseFileRead TwophaseFileSync \
        TwophaseFileWrite WALSenderTimelineHistoryRead WALBootstrapSync WALBootstrapWrite WALCopyRead WALCopySync \
        WALCopyWrite WALInitSync WALInitWrite WALRead WALSync WALSyncMethodAssign WALWrite LogicalChangesRead \
        LogicalChangesWrite LogicalSubxactRead LogicalSubxactWrite",
};

/// PostgreSQL 15.18.
pub const V15: Names = Names {
    lwlocks: "\
        - ShmemIndex OidGen XidGen ProcArray SInvalRead SInvalWrite WALBufMapping WALWrite ControlFile - XactSLRU \
        SubtransSLRU MultiXactGen MultiXactOffsetSLRU MultiXactMemberSLRU RelCacheInit CheckpointerComm \
        TwoPhaseState TablespaceCreate BtreeVacuum AddinShmemInit Autovacuum AutovacuumSchedule SyncScan \
        RelationMapping NotifySLRU NotifyQueue SerializableXactHash SerializableFinishedList \
        SerializablePredicateList SerialSLRU SyncRep BackgroundWorker DynamicSharedMemoryControl AutoFile \
        ReplicationSlotAllocation ReplicationSlotControl CommitTsSLRU CommitTs ReplicationOrigin \
        MultiXactTruncation OldSnapshotTimeMap LogicalRepWorker XactTruncation - WrapLimitsVacuum NotifyQueueTail \
        XactBuffer CommitTsBuffer SubtransBuffer MultiXactOffsetBuffer MultiXactMemberBuffer NotifyBuffer \
        SerialBuffer WALInsert BufferContent ReplicationOriginState ReplicationSlotIO LockFastPath BufferMapping \
        LockManager PredicateLockManager ParallelHashJoin ParallelQueryDSA PerSessionDSA PerSessionRecordType \
        PerSessionRecordTypmod SharedTupleStore SharedTidBitmap ParallelAppend PerXactPredicateList PgStatsDSA \
        PgStatsHash PgStatsData",
    activities: "\
        ArchiverMain AutoVacuumMain BgWriterHibernate BgWriterMain CheckpointerMain LogicalApplyMain \
        LogicalLauncherMain RecoveryWalStream SysLoggerMain WalReceiverMain WalSenderMain WalWriterMain",
    clients: "\
        ClientRead ClientWrite GSSOpenServer LibPQWalReceiverConnect LibPQWalReceiverReceive SSLOpenServer \
        WalSenderWaitForWAL WalSenderWriteData",
    ipc: "\
        AppendReady ArchiveCleanupCommand ArchiveCommand BackendTermination BackupWaitWalArchive BgWorkerShutdown \
        BgWorkerStartup BtreePage BufferIO CheckpointDone CheckpointStart ExecuteGather HashBatchAllocate \
        HashBatchElect HashBatchLoad HashBuildAllocate HashBuildElect HashBuildHashInner HashBuildHashOuter \
        HashGrowBatchesAllocate HashGrowBatchesDecide HashGrowBatchesElect HashGrowBatchesFinish \
        HashGrowBatchesRepartition HashGrowBucketsAllocate HashGrowBucketsElect HashGrowBucketsReinsert \
        LogicalSyncData LogicalSyncStateChange MessageQueueInternal MessageQueuePutMessage MessageQueueReceive \
        MessageQueueSend ParallelBitmapScan ParallelCreateIndexScan ParallelFinish ProcArrayGroupUpdate \
        ProcSignalBarrier Promote RecoveryConflictSnapshot RecoveryConflictTablespace RecoveryEndCommand \
        RecoveryPause ReplicationOriginDrop ReplicationSlotDrop RestoreCommand SafeSnapshot SyncRep \
        WalReceiverExit WalReceiverWaitStart XactGroupUpdate",
    timeouts: "\
        BaseBackupThrottle CheckpointWriteDelay PgSleep RecoveryApplyDelay RecoveryRetrieveRetryInterval \
        RegisterSyncRequest VacuumDelay VacuumTruncate",
    io: "\
        BaseBackupRead BaseBackupSync BaseBackupWrite BufFileRead BufFileWrite BufFileTruncate ControlFileRead \
        ControlFileSync ControlFileSyncUpdate ControlFileWrite ControlFileWriteUpdate CopyFileRead CopyFileWrite \
        DataFileExtend DataFileFlush DataFileImmediateSync DataFilePrefetch DataFileRead DataFileSync \
        DataFileTruncate DataFileWrite DSMFillZeroWrite LockFileAddToDataDirRead LockFileAddToDataDirSync \
        LockFileAddToDataDirWrite LockFileCreateRead LockFileCreateSync LockFileCreateWrite \
        LockFileReCheckDataDirRead LogicalRewriteCheckpointSync LogicalRewriteMappingSync \
        LogicalRewriteMappingWrite LogicalRewriteSync LogicalRewriteTruncate LogicalRewriteWrite RelationMapRead \
        RelationMapSync RelationMapWrite ReorderBufferRead ReorderBufferWrite ReorderLogicalMappingRead \
        ReplicationSlotRead ReplicationSlotRestoreSync ReplicationSlotSync ReplicationSlotWrite SLRUFlushSync \
        SLRURead SLRUSync SLRUWrite SnapbuildRead SnapbuildSync SnapbuildWrite TimelineHistoryFileSync \
        TimelineHistoryFileWrite TimelineHistoryRead TimelineHistorySync TimelineHistoryWrite TwophaseFileRead \
        TwophaseFileSync TwophaseFileWrite VersionFileWrite WALSenderTimelineHistoryRead WALBootstrapSync \
        WALBootstrapWrite WALCopyRead WALCopySync WALCopyWrite WALInitSync WALInitWrite WALRead WALSync \
        WALSyncMethodAssign WALWrite VersionFileSync",
};

/// PostgreSQL 16.14.
pub const V16: Names = Names {
    lwlocks: "\
        - ShmemIndex OidGen XidGen ProcArray SInvalRead SInvalWrite WALBufMapping WALWrite ControlFile - XactSLRU \
        SubtransSLRU MultiXactGen MultiXactOffsetSLRU MultiXactMemberSLRU RelCacheInit CheckpointerComm \
        TwoPhaseState TablespaceCreate BtreeVacuum AddinShmemInit Autovacuum AutovacuumSchedule SyncScan \
        RelationMapping NotifySLRU NotifyQueue SerializableXactHash SerializableFinishedList \
        SerializablePredicateList SerialSLRU SyncRep BackgroundWorker DynamicSharedMemoryControl AutoFile \
        ReplicationSlotAllocation ReplicationSlotControl CommitTsSLRU CommitTs ReplicationOrigin \
        MultiXactTruncation OldSnapshotTimeMap LogicalRepWorker XactTruncation - WrapLimitsVacuum NotifyQueueTail \
        XactBuffer CommitTsBuffer SubtransBuffer MultiXactOffsetBuffer MultiXactMemberBuffer NotifyBuffer \
        SerialBuffer WALInsert BufferContent ReplicationOriginState ReplicationSlotIO LockFastPath BufferMapping \
        LockManager PredicateLockManager ParallelHashJoin ParallelQueryDSA PerSessionDSA PerSessionRecordType \
        PerSessionRecordTypmod SharedTupleStore SharedTidBitmap ParallelAppend PerXactPredicateList PgStatsDSA \
        PgStatsHash PgStatsData LogicalRepLauncherDSA LogicalRepLauncherHash",
    activities: "\
        ArchiverMain AutoVacuumMain BgWriterHibernate BgWriterMain CheckpointerMain LogicalApplyMain \
        LogicalLauncherMain LogicalParallelApplyMain RecoveryWalStream SysLoggerMain WalReceiverMain WalSenderMain \
        WalWriterMain",
    clients: "\
        ClientRead ClientWrite GSSOpenServer LibPQWalReceiverConnect LibPQWalReceiverReceive SSLOpenServer \
        WalSenderWaitForWAL WalSenderWriteData",
    ipc: "\
        AppendReady ArchiveCleanupCommand ArchiveCommand BackendTermination BackupWaitWalArchive BgWorkerShutdown \
        BgWorkerStartup BtreePage BufferIO CheckpointDone CheckpointStart ExecuteGather HashBatchAllocate \
        HashBatchElect HashBatchLoad HashBuildAllocate HashBuildElect HashBuildHashInner HashBuildHashOuter \
        HashGrowBatchesDecide HashGrowBatchesElect HashGrowBatchesFinish HashGrowBatchesReallocate \
        HashGrowBatchesRepartition HashGrowBucketsElect HashGrowBucketsReallocate HashGrowBucketsReinsert \
        LogicalApplySendData LogicalParallelApplyStateChange LogicalSyncData LogicalSyncStateChange \
        MessageQueueInternal MessageQueuePutMessage MessageQueueReceive MessageQueueSend ParallelBitmapScan \
        ParallelCreateIndexScan ParallelFinish ProcArrayGroupUpdate ProcSignalBarrier Promote \
        RecoveryConflictSnapshot RecoveryConflictTablespace RecoveryEndCommand RecoveryPause ReplicationOriginDrop \
        ReplicationSlotDrop RestoreCommand SafeSnapshot SyncRep WalReceiverExit WalReceiverWaitStart \
        XactGroupUpdate",
    timeouts: "\
        BaseBackupThrottle CheckpointWriteDelay PgSleep RecoveryApplyDelay RecoveryRetrieveRetryInterval \
        RegisterSyncRequest SpinDelay VacuumDelay VacuumTruncate",
    io: "\
        BaseBackupRead BaseBackupSync BaseBackupWrite BufFileRead BufFileWrite BufFileTruncate ControlFileRead \
        ControlFileSync ControlFileSyncUpdate ControlFileWrite ControlFileWriteUpdate CopyFileRead CopyFileWrite \
        DataFileExtend DataFileFlush DataFileImmediateSync DataFilePrefetch DataFileRead DataFileSync \
        DataFileTruncate DataFileWrite DSMAllocate DSMFillZeroWrite LockFileAddToDataDirRead \
        LockFileAddToDataDirSync LockFileAddToDataDirWrite LockFileCreateRead LockFileCreateSync \
        LockFileCreateWrite LockFileReCheckDataDirRead LogicalRewriteCheckpointSync LogicalRewriteMappingSync \
        LogicalRewriteMappingWrite LogicalRewriteSync LogicalRewriteTruncate LogicalRewriteWrite RelationMapRead \
        RelationMapReplace RelationMapWrite ReorderBufferRead ReorderBufferWrite ReorderLogicalMappingRead \
        ReplicationSlotRead ReplicationSlotRestoreSync ReplicationSlotSync ReplicationSlotWrite SLRUFlushSync \
        SLRURead SLRUSync SLRUWrite SnapbuildRead SnapbuildSync SnapbuildWrite TimelineHistoryFileSync \
        TimelineHistoryFileWrite TimelineHistoryRead TimelineHistorySync TimelineHistoryWrite TwophaseFileRead \
        TwophaseFileSync TwophaseFileWrite VersionFileWrite WALSenderTimelineHistoryRead WALBootstrapSync \
        WALBootstrapWrite WALCopyRead WALCopySync WALCopyWrite WALInitSync WALInitWrite WALRead WALSync \
        WALSyncMethodAssign WALWrite VersionFileSync",
};

/// PostgreSQL 17.10.
pub const V17: Names = Names {
    lwlocks: "\
        - ShmemIndex OidGen XidGen ProcArray SInvalRead SInvalWrite WALBufMapping WALWrite ControlFile - - - \
        MultiXactGen - - RelCacheInit CheckpointerComm TwoPhaseState TablespaceCreate BtreeVacuum AddinShmemInit \
        Autovacuum AutovacuumSchedule SyncScan RelationMapping - NotifyQueue SerializableXactHash \
        SerializableFinishedList SerializablePredicateList - SyncRep BackgroundWorker DynamicSharedMemoryControl \
        AutoFile ReplicationSlotAllocation ReplicationSlotControl - CommitTs ReplicationOrigin MultiXactTruncation \
        - LogicalRepWorker XactTruncation - WrapLimitsVacuum NotifyQueueTail WaitEventCustom WALSummarizer \
        DSMRegistry InjectionPoint SerialControl XactBuffer CommitTsBuffer SubtransBuffer MultiXactOffsetBuffer \
        MultiXactMemberBuffer NotifyBuffer SerialBuffer WALInsert BufferContent ReplicationOriginState \
        ReplicationSlotIO LockFastPath BufferMapping LockManager PredicateLockManager ParallelHashJoin \
        ParallelQueryDSA PerSessionDSA PerSessionRecordType PerSessionRecordTypmod SharedTupleStore \
        SharedTidBitmap ParallelAppend PerXactPredicateList PgStatsDSA PgStatsHash PgStatsData \
        LogicalRepLauncherDSA LogicalRepLauncherHash DSMRegistryDSA DSMRegistryHash CommitTsSLRU \
        MultiXactMemberSLRU MultiXactOffsetSLRU NotifySLRU SerialSLRU SubtransSLRU XactSLRU ParallelVacuumDSA",
    activities: "\
        ArchiverMain AutovacuumMain BgwriterHibernate BgwriterMain CheckpointerMain LogicalApplyMain \
        LogicalLauncherMain LogicalParallelApplyMain RecoveryWalStream ReplicationSlotsyncMain \
        ReplicationSlotsyncShutdown SysloggerMain WalReceiverMain WalSenderMain WalSummarizerWal WalWriterMain",
    clients: "\
        ClientRead ClientWrite GssOpenServer LibpqwalreceiverConnect LibpqwalreceiverReceive SslOpenServer \
        WaitForStandbyConfirmation WalSenderWaitForWal WalSenderWriteData",
    ipc: "\
        AppendReady ArchiveCleanupCommand ArchiveCommand BackendTermination BackupWaitWalArchive BgworkerShutdown \
        BgworkerStartup BtreePage BufferIo CheckpointDelayComplete CheckpointDelayStart CheckpointDone \
        CheckpointStart ExecuteGather HashBatchAllocate HashBatchElect HashBatchLoad HashBuildAllocate \
        HashBuildElect HashBuildHashInner HashBuildHashOuter HashGrowBatchesDecide HashGrowBatchesElect \
        HashGrowBatchesFinish HashGrowBatchesReallocate HashGrowBatchesRepartition HashGrowBucketsElect \
        HashGrowBucketsReallocate HashGrowBucketsReinsert LogicalApplySendData LogicalParallelApplyStateChange \
        LogicalSyncData LogicalSyncStateChange MessageQueueInternal MessageQueuePutMessage MessageQueueReceive \
        MessageQueueSend MultixactCreation ParallelBitmapScan ParallelCreateIndexScan ParallelFinish \
        ProcarrayGroupUpdate ProcSignalBarrier Promote RecoveryConflictSnapshot RecoveryConflictTablespace \
        RecoveryEndCommand RecoveryPause ReplicationOriginDrop ReplicationSlotDrop RestoreCommand SafeSnapshot \
        SyncRep WalReceiverExit WalReceiverWaitStart WalSummaryReady XactGroupUpdate",
    timeouts: "\
        BaseBackupThrottle CheckpointWriteDelay PgSleep RecoveryApplyDelay RecoveryRetrieveRetryInterval \
        RegisterSyncRequest SpinDelay VacuumDelay VacuumTruncate WalSummarizerError",
    io: "\
        BasebackupRead BasebackupSync BasebackupWrite BuffileRead BuffileTruncate BuffileWrite ControlFileRead \
        ControlFileSync ControlFileSyncUpdate ControlFileWrite ControlFileWriteUpdate CopyFileRead CopyFileWrite \
        DataFileExtend DataFileFlush DataFileImmediateSync DataFilePrefetch DataFileRead DataFileSync \
        DataFileTruncate DataFileWrite DsmAllocate DsmFillZeroWrite LockFileAddtodatadirRead \
        LockFileAddtodatadirSync LockFileAddtodatadirWrite LockFileCreateRead LockFileCreateSync \
        LockFileCreateWrite LockFileRecheckdatadirRead LogicalRewriteCheckpointSync LogicalRewriteMappingSync \
        LogicalRewriteMappingWrite LogicalRewriteSync LogicalRewriteTruncate LogicalRewriteWrite RelationMapRead \
        RelationMapReplace RelationMapWrite ReorderBufferRead ReorderBufferWrite ReorderLogicalMappingRead \
        ReplicationSlotRead ReplicationSlotRestoreSync ReplicationSlotSync ReplicationSlotWrite SlruFlushSync \
        SlruRead SlruSync SlruWrite SnapbuildRead SnapbuildSync SnapbuildWrite TimelineHistoryFileSync \
        TimelineHistoryFileWrite TimelineHistoryRead TimelineHistorySync TimelineHistoryWrite TwophaseFileRead \
        TwophaseFileSync TwophaseFileWrite VersionFileSync VersionFileWrite WalsenderTimelineHistoryRead \
        WalBootstrapSync WalBootstrapWrite WalCopyRead WalCopySync WalCopyWrite WalInitSync WalInitWrite WalRead \
        WalSummaryRead WalSummaryWrite WalSync WalSyncMethodAssign WalWrite",
};

/// PostgreSQL 18.4.
pub const V18: Names = Names {
    lwlocks: "\
        - ShmemIndex OidGen XidGen ProcArray SInvalRead SInvalWrite WALBufMapping WALWrite ControlFile - - - \
        MultiXactGen - - RelCacheInit CheckpointerComm TwoPhaseState TablespaceCreate BtreeVacuum AddinShmemInit \
        Autovacuum AutovacuumSchedule SyncScan RelationMapping - NotifyQueue SerializableXactHash \
        SerializableFinishedList SerializablePredicateList - SyncRep BackgroundWorker DynamicSharedMemoryControl \
        AutoFile ReplicationSlotAllocation ReplicationSlotControl - CommitTs ReplicationOrigin MultiXactTruncation \
        - LogicalRepWorker XactTruncation - WrapLimitsVacuum NotifyQueueTail WaitEventCustom WALSummarizer \
        DSMRegistry InjectionPoint SerialControl AioWorkerSubmissionQueue XactBuffer CommitTsBuffer SubtransBuffer \
        MultiXactOffsetBuffer MultiXactMemberBuffer NotifyBuffer SerialBuffer WALInsert BufferContent \
        ReplicationOriginState ReplicationSlotIO LockFastPath BufferMapping LockManager PredicateLockManager \
        ParallelHashJoin ParallelBtreeScan ParallelQueryDSA PerSessionDSA PerSessionRecordType \
        PerSessionRecordTypmod SharedTupleStore SharedTidBitmap ParallelAppend PerXactPredicateList PgStatsDSA \
        PgStatsHash PgStatsData LogicalRepLauncherDSA LogicalRepLauncherHash DSMRegistryDSA DSMRegistryHash \
        CommitTsSLRU MultiXactMemberSLRU MultiXactOffsetSLRU NotifySLRU SerialSLRU SubtransSLRU XactSLRU \
        ParallelVacuumDSA AioUringCompletion",
    activities: "\
        ArchiverMain AutovacuumMain BgwriterHibernate BgwriterMain CheckpointerMain CheckpointerShutdown \
        IoWorkerMain LogicalApplyMain LogicalLauncherMain LogicalParallelApplyMain RecoveryWalStream \
        ReplicationSlotsyncMain ReplicationSlotsyncShutdown SysloggerMain WalReceiverMain WalSenderMain \
        WalSummarizerWal WalWriterMain",
    clients: "\
        ClientRead ClientWrite GssOpenServer LibpqwalreceiverConnect LibpqwalreceiverReceive SslOpenServer \
        WaitForStandbyConfirmation WalSenderWaitForWal WalSenderWriteData",
    ipc: "\
        AppendReady ArchiveCleanupCommand ArchiveCommand BackendTermination BackupWaitWalArchive BgworkerShutdown \
        BgworkerStartup BtreePage BufferIo CheckpointDelayComplete CheckpointDelayStart CheckpointDone \
        CheckpointStart ExecuteGather HashBatchAllocate HashBatchElect HashBatchLoad HashBuildAllocate \
        HashBuildElect HashBuildHashInner HashBuildHashOuter HashGrowBatchesDecide HashGrowBatchesElect \
        HashGrowBatchesFinish HashGrowBatchesReallocate HashGrowBatchesRepartition HashGrowBucketsElect \
        HashGrowBucketsReallocate HashGrowBucketsReinsert LogicalApplySendData LogicalParallelApplyStateChange \
        LogicalSyncData LogicalSyncStateChange MessageQueueInternal MessageQueuePutMessage MessageQueueReceive \
        MessageQueueSend MultixactCreation ParallelBitmapScan ParallelCreateIndexScan ParallelFinish \
        ProcarrayGroupUpdate ProcSignalBarrier Promote RecoveryConflictSnapshot RecoveryConflictTablespace \
        RecoveryEndCommand RecoveryPause ReplicationOriginDrop ReplicationSlotDrop RestoreCommand SafeSnapshot \
        SyncRep WalReceiverExit WalReceiverWaitStart WalSummaryReady XactGroupUpdate",
    timeouts: "\
        BaseBackupThrottle CheckpointWriteDelay PgSleep RecoveryApplyDelay RecoveryRetrieveRetryInterval \
        RegisterSyncRequest SpinDelay VacuumDelay VacuumTruncate WalSummarizerError",
    io: "\
        AioIoCompletion AioIoUringExecution AioIoUringSubmit BasebackupRead BasebackupSync BasebackupWrite \
        BuffileRead BuffileTruncate BuffileWrite ControlFileRead ControlFileSync ControlFileSyncUpdate \
        ControlFileWrite ControlFileWriteUpdate CopyFileCopy CopyFileRead CopyFileWrite DataFileExtend \
        DataFileFlush DataFileImmediateSync DataFilePrefetch DataFileRead DataFileSync DataFileTruncate \
        DataFileWrite DsmAllocate DsmFillZeroWrite LockFileAddtodatadirRead LockFileAddtodatadirSync \
        LockFileAddtodatadirWrite LockFileCreateRead LockFileCreateSync LockFileCreateWrite \
        LockFileRecheckdatadirRead LogicalRewriteCheckpointSync LogicalRewriteMappingSync \
        LogicalRewriteMappingWrite LogicalRewriteSync LogicalRewriteTruncate LogicalRewriteWrite RelationMapRead \
        RelationMapReplace RelationMapWrite ReorderBufferRead ReorderBufferWrite ReorderLogicalMappingRead \
        ReplicationSlotRead ReplicationSlotRestoreSync ReplicationSlotSync ReplicationSlotWrite SlruFlushSync \
        SlruRead SlruSync SlruWrite SnapbuildRead SnapbuildSync SnapbuildWrite TimelineHistoryFileSync \
        TimelineHistoryFileWrite TimelineHistoryRead TimelineHistorySync TimelineHistoryWrite TwophaseFileRead \
        TwophaseFileSync TwophaseFileWrite VersionFileSync VersionFileWrite WalsenderTimelineHistoryRead \
        WalBootstrapSync WalBootstrapWrite WalCopyRead WalCopySync WalCopyWrite WalInitSync WalInitWrite WalRead \
        WalSummaryRead WalSummaryWrite WalSync WalSyncMethodAssign WalWrite",
};
