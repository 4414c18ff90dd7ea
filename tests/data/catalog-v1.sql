BEGIN TRANSACTION;
CREATE TABLE activations (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        task_id TEXT NOT NULL,
        at TEXT NOT NULL,
        actor TEXT NOT NULL,
        from_version INTEGER,
        to_version INTEGER NOT NULL,
        percentage REAL NOT NULL,
        reason TEXT NOT NULL,
        FOREIGN KEY (task_id, to_version) REFERENCES artifacts (task_id, version)
    ) STRICT;
INSERT INTO "activations" VALUES(1,'01a20f87-c034-7029-b223-4629e95fc87e','2026-11-24T21:48:04.545Z','system',NULL,1,100.0,'published');
INSERT INTO "activations" VALUES(2,'01a20f87-c034-7029-b223-4629e95fc87e','2026-11-24T21:48:04.549Z','system',1,2,100.0,'published');
INSERT INTO "activations" VALUES(3,'01a20f87-c034-7029-b223-4629e95fc87e','2026-11-24T21:48:04.556Z','ann',2,1,100.0,'worse');
CREATE TABLE artifacts (
        task_id TEXT NOT NULL REFERENCES tasks (id),
        version INTEGER NOT NULL CHECK (version >= 1),
        generation_id TEXT NOT NULL,
        digest TEXT NOT NULL,
        verdict TEXT NOT NULL,
        deployed_at TEXT,
        document TEXT NOT NULL,
        PRIMARY KEY (task_id, version),
        UNIQUE (task_id, generation_id)
    ) STRICT;
INSERT INTO "artifacts" VALUES('01a20f87-c034-7029-b223-4629e95fc87e',1,'01a20f87-c041-7394-be79-534983f94864','sha256:dedc0ea48b714bfbb8a00e75884a8e0a743ad87cfe58ae9cf2360bd567386e6b','draft','2026-11-24T21:48:04.556Z','{"id":"01a20f87-c041-7394-be79-534a2f97408d","task_id":"01a20f87-c034-7029-b223-4629e95fc87e","version":1,"language":"python","entry_point":"run","code":null,"digest":"sha256:dedc0ea48b714bfbb8a00e75884a8e0a743ad87cfe58ae9cf2360bd567386e6b","size_bytes":33,"synthesis_strategy":"auto","confidence_score":0.0,"complexity_metrics":{"cyclomatic_complexity":null,"lines_of_code":null,"estimated_latency_ms":null},"llm_provider":null,"llm_model":null,"generation_cost":0.0,"generation_time_sec":0.0,"validation":null,"status":"draft","deployment_percentage":0.0,"created_at":"2026-11-24T21:48:04.545Z","deployed_at":null,"parent_version":null}');
INSERT INTO "artifacts" VALUES('01a20f87-c034-7029-b223-4629e95fc87e',2,'01a20f87-c044-7549-8baf-11fce36a2296','sha256:dedc0ea48b714bfbb8a00e75884a8e0a743ad87cfe58ae9cf2360bd567386e6b','draft','2026-11-24T21:48:04.549Z','{"id":"01a20f87-c045-733d-9aad-963b4cc239b3","task_id":"01a20f87-c034-7029-b223-4629e95fc87e","version":2,"language":"python","entry_point":"run","code":null,"digest":"sha256:dedc0ea48b714bfbb8a00e75884a8e0a743ad87cfe58ae9cf2360bd567386e6b","size_bytes":33,"synthesis_strategy":"auto","confidence_score":0.0,"complexity_metrics":{"cyclomatic_complexity":null,"lines_of_code":null,"estimated_latency_ms":null},"llm_provider":null,"llm_model":null,"generation_cost":0.0,"generation_time_sec":0.0,"validation":null,"status":"draft","deployment_percentage":0.0,"created_at":"2026-11-24T21:48:04.549Z","deployed_at":null,"parent_version":null}');
CREATE TABLE examples (
        task_id TEXT PRIMARY KEY REFERENCES tasks (id),
        examples TEXT NOT NULL
    ) STRICT;
INSERT INTO "examples" VALUES('01a20f87-c034-7029-b223-4629e95fc87e','[{"input":{"text":"grüße"},"output":"ham"},{"input":{"text":"win"},"output":"spam"}]');
INSERT INTO "examples" VALUES('01a20f87-c05c-724c-bdc7-518ed4506245','[]');
CREATE TABLE generations (
        task_id TEXT NOT NULL REFERENCES tasks (id),
        id TEXT NOT NULL,
        version INTEGER,
        PRIMARY KEY (task_id, id),
        FOREIGN KEY (task_id, version) REFERENCES artifacts (task_id, version)
    ) STRICT;
INSERT INTO "generations" VALUES('01a20f87-c034-7029-b223-4629e95fc87e','01a20f87-c041-7394-be79-534983f94864',1);
INSERT INTO "generations" VALUES('01a20f87-c034-7029-b223-4629e95fc87e','01a20f87-c044-7549-8baf-11fce36a2296',2);
CREATE TABLE idempotency_keys (
        key TEXT PRIMARY KEY,
        definition_digest TEXT NOT NULL,
        task_id TEXT NOT NULL REFERENCES tasks (id),
        created_at TEXT NOT NULL
    ) STRICT;
INSERT INTO "idempotency_keys" VALUES('k1','sha256:b46b2e9a0370b7c3807f1fa2d3b5de6c2063c3f2281464c2a58e7f080ca9764d','01a20f87-c034-7029-b223-4629e95fc87e','2026-11-24T21:48:04.524Z');
CREATE TABLE outbox (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        subject TEXT NOT NULL,
        task_id TEXT NOT NULL,
        body TEXT NOT NULL,
        at TEXT NOT NULL,
        correlation_id TEXT NOT NULL,
        traceparent TEXT NOT NULL
    ) STRICT;
INSERT INTO "outbox" VALUES(1,'01a20f87-c034-7029-b223-462b2dfd32d2','loopai.evt.v1.task.created','01a20f87-c034-7029-b223-4629e95fc87e','{"task_id":"01a20f87-c034-7029-b223-4629e95fc87e","name":"spam-detection","generation_id":"01a20f87-c034-7029-b223-462ad19fa2d0"}','2026-11-24T21:48:04.524Z','01a20f87-c02c-702d-90e8-74f0ef922c80','00-09ac7c5adadf53ccee7913f97c1581a3-c4817b9be63e83e4-00');
INSERT INTO "outbox" VALUES(2,'01a20f87-c041-7394-be79-534cd07ceee0','loopai.evt.v1.artifact.published','01a20f87-c034-7029-b223-4629e95fc87e','{"task_id":"01a20f87-c034-7029-b223-4629e95fc87e","task_name":"spam-detection","version":1,"digest":"sha256:dedc0ea48b714bfbb8a00e75884a8e0a743ad87cfe58ae9cf2360bd567386e6b","status":"active","generation_id":"01a20f87-c041-7394-be79-534983f94864"}','2026-11-24T21:48:04.545Z','01a20f87-c041-7394-be79-534b2daaf204','00-48ba8667ba84ae48d63bca962066e344-88f109fa41fc07b5-00');
INSERT INTO "outbox" VALUES(3,'01a20f87-c041-7394-be79-534d5caa68c7','loopai.evt.v1.artifact.activated','01a20f87-c034-7029-b223-4629e95fc87e','{"task_id":"01a20f87-c034-7029-b223-4629e95fc87e","task_name":"spam-detection","version":1,"previous_version":null,"digest":"sha256:dedc0ea48b714bfbb8a00e75884a8e0a743ad87cfe58ae9cf2360bd567386e6b"}','2026-11-24T21:48:04.545Z','01a20f87-c041-7394-be79-534b2daaf204','00-48ba8667ba84ae48d63bca962066e344-88f109fa41fc07b5-00');
INSERT INTO "outbox" VALUES(4,'01a20f87-c045-733d-9aad-963db9e12f54','loopai.evt.v1.artifact.published','01a20f87-c034-7029-b223-4629e95fc87e','{"task_id":"01a20f87-c034-7029-b223-4629e95fc87e","task_name":"spam-detection","version":2,"digest":"sha256:dedc0ea48b714bfbb8a00e75884a8e0a743ad87cfe58ae9cf2360bd567386e6b","status":"active","generation_id":"01a20f87-c044-7549-8baf-11fce36a2296"}','2026-11-24T21:48:04.549Z','01a20f87-c045-733d-9aad-963c3e40058b','00-87e1024d3f74f34636506dcde007afb7-23dd2ac9ccb826ef-00');
INSERT INTO "outbox" VALUES(5,'01a20f87-c045-733d-9aad-963e2cd84067','loopai.evt.v1.artifact.activated','01a20f87-c034-7029-b223-4629e95fc87e','{"task_id":"01a20f87-c034-7029-b223-4629e95fc87e","task_name":"spam-detection","version":2,"previous_version":1,"digest":"sha256:dedc0ea48b714bfbb8a00e75884a8e0a743ad87cfe58ae9cf2360bd567386e6b"}','2026-11-24T21:48:04.549Z','01a20f87-c045-733d-9aad-963c3e40058b','00-87e1024d3f74f34636506dcde007afb7-23dd2ac9ccb826ef-00');
INSERT INTO "outbox" VALUES(6,'01a20f87-c04c-7527-be34-1a2c5c01714d','loopai.evt.v1.artifact.activated','01a20f87-c034-7029-b223-4629e95fc87e','{"task_id":"01a20f87-c034-7029-b223-4629e95fc87e","task_name":"spam-detection","version":1,"previous_version":2,"digest":"sha256:dedc0ea48b714bfbb8a00e75884a8e0a743ad87cfe58ae9cf2360bd567386e6b"}','2026-11-24T21:48:04.556Z','01a20f87-c04c-7527-be34-1a2bcfef7803','00-d8bac124f191099f7d129d35a0e82fe2-71d3e7d04865f915-00');
INSERT INTO "outbox" VALUES(7,'01a20f87-c04c-7527-be34-1a2d053811fc','loopai.evt.v1.artifact.rolled_back','01a20f87-c034-7029-b223-4629e95fc87e','{"task_id":"01a20f87-c034-7029-b223-4629e95fc87e","task_name":"spam-detection","version":1,"previous_version":2,"digest":"sha256:dedc0ea48b714bfbb8a00e75884a8e0a743ad87cfe58ae9cf2360bd567386e6b"}','2026-11-24T21:48:04.556Z','01a20f87-c04c-7527-be34-1a2bcfef7803','00-d8bac124f191099f7d129d35a0e82fe2-71d3e7d04865f915-00');
INSERT INTO "outbox" VALUES(8,'01a20f87-c05c-724c-bdc7-51908d06cf5b','loopai.evt.v1.task.created','01a20f87-c05c-724c-bdc7-518ed4506245','{"task_id":"01a20f87-c05c-724c-bdc7-518ed4506245","name":"new-one","generation_id":"01a20f87-c05c-724c-bdc7-518f3b03c51d"}','2026-11-24T21:48:04.557Z','01a20f87-c04d-75c1-b6a1-eea5792f5708','00-d5df54b8065cd54c204b44071346e214-4dbf77a91e74bcca-00');
CREATE TABLE tasks (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        description TEXT NOT NULL,
        input_schema TEXT NOT NULL,
        output_schema TEXT NOT NULL,
        total_examples INTEGER NOT NULL,
        accuracy_target REAL NOT NULL,
        latency_target_ms INTEGER NOT NULL,
        sampling_rate REAL NOT NULL,
        status TEXT NOT NULL,
        status_reason TEXT,
        active_version INTEGER,
        total_versions INTEGER NOT NULL,
        created_at TEXT NOT NULL,
        updated_at TEXT NOT NULL,
        FOREIGN KEY (id, active_version) REFERENCES artifacts (task_id, version) DEFERRABLE INITIALLY DEFERRED
    ) STRICT;
INSERT INTO "tasks" VALUES('01a20f87-c034-7029-b223-4629e95fc87e','spam-detection','Tells spam from ham.','{"type":"object"}','{"type":"string"}',2,0.9,10,0.1,'ready',NULL,1,2,'2026-11-24T21:48:04.524Z','2026-11-24T21:48:04.556Z');
INSERT INTO "tasks" VALUES('01a20f87-c05c-724c-bdc7-518ed4506245','new-one','Tells spam from ham.','{"type":"object"}','{"type":"string"}',0,0.9,10,0.1,'generating',NULL,NULL,0,'2026-11-24T21:48:04.557Z','2026-11-24T21:48:04.557Z');
CREATE INDEX tasks_by_status ON tasks (status, id);
CREATE INDEX activations_by_task ON activations (task_id, sequence);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('outbox',8);
INSERT INTO "sqlite_sequence" VALUES('activations',3);
COMMIT;
PRAGMA user_version = 1;
