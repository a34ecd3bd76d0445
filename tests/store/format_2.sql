BEGIN TRANSACTION;
CREATE TABLE candidate (
  generation INTEGER NOT NULL, -- generation.number
  position INTEGER NOT NULL, -- within the generation, from 0
  loss TEXT NOT NULL, -- canonical JSON of the loss
  key TEXT NOT NULL, -- candidates with one key need one evaluation
  lr_scale REAL NOT NULL, -- factor on the learning rate
  genome TEXT NOT NULL, -- JSON: the numbers the search varies
  origin TEXT NOT NULL, -- where it came from
  status TEXT NOT NULL, -- ok, screened:..., diverged, ...
  sentence TEXT NOT NULL, -- what happened
  request TEXT, -- evaluation.request
  duplicate_of TEXT, -- which candidate it repeats
  fitness REAL, -- lower is better; null until told, or failed
  tuned TEXT, -- canonical JSON of the loss that was trained, where it is another one
  row_check INTEGER NOT NULL, -- CRC-32 of the other columns
  PRIMARY KEY (generation, position)
) WITHOUT ROWID;
INSERT INTO "candidate" VALUES(0,0,'{"family":"tree","n":0}','k00',0.1,'[0.0,-0.0]','draw 0','ok','','cbb9de79046efb24',NULL,2.65268295460070191449e-01,NULL,1750078663);
INSERT INTO "candidate" VALUES(0,1,'{"family":"tree","n":1}','k01',1.1,'[0.1,-0.0]','draw 1','diverged','non-finite at step 3','24807426ca7f4003',NULL,NULL,NULL,1818666410);
INSERT INTO "candidate" VALUES(0,2,'{"family":"tree","n":2}','k02',2.1,'[0.2,-0.0]','draw 2','ok','','e0170cf517bace8d',NULL,2.91783908149227499961e-01,NULL,3421906785);
INSERT INTO "candidate" VALUES(0,3,'{"family":"tree","n":3}','k03',3.1,'[0.30000000000000004,-0.0]','draw 3','screened:invariant','γ_T is positive',NULL,NULL,NULL,NULL,335868283);
INSERT INTO "candidate" VALUES(1,0,'{"family":"tree","n":10}','k10',0.1,'[0.0,-0.3333333333333333]','draw 0','ok','','9d353eb200b9079d',NULL,2.04697900917381048202e-01,NULL,1572460229);
INSERT INTO "candidate" VALUES(1,1,'{"family":"tree","n":11}','k11',1.1,'[0.1,-0.3333333333333333]','draw 1','ok','','ae494c34c7a9358c',NULL,2.26935311220586299896e-01,NULL,3018747590);
INSERT INTO "candidate" VALUES(1,2,'{"family":"tree","n":12}','k12',2.1,'[0.2,-0.3333333333333333]','draw 2','diverged','non-finite at step 3','3d74bca4a922ac35',NULL,NULL,NULL,2077974485);
INSERT INTO "candidate" VALUES(1,3,'{"family":"tree","n":13}','k13',3.1,'[0.30000000000000004,-0.3333333333333333]','draw 3','screened:invariant','γ_T is positive',NULL,NULL,NULL,NULL,473138790);
CREATE TABLE checkpoint (
  name TEXT NOT NULL, -- whose state: method, ...
  generation INTEGER NOT NULL, -- after which it was taken
  document TEXT NOT NULL, -- canonical JSON
  row_check INTEGER NOT NULL, -- CRC-32 of the other columns
  PRIMARY KEY (name)
) WITHOUT ROWID;
INSERT INTO "checkpoint" VALUES('finalists',2,'{"best":"k00"}',3795245349);
INSERT INTO "checkpoint" VALUES('method',1,'{"memory":[[0.2652682954600702,null,0.2917839081492275,null],[0.20469790091738105,0.2269353112205863,null,null]]}',2637791846);
CREATE TABLE evaluation (
  request TEXT NOT NULL, -- key of what was asked
  loss TEXT NOT NULL, -- canonical JSON of the loss
  seed INTEGER NOT NULL, -- evaluation seed
  budget REAL NOT NULL, -- fraction of the full training
  lr_scale REAL NOT NULL, -- factor on the learning rate
  data_fraction REAL NOT NULL, -- fraction of the training data
  splits TEXT NOT NULL, -- JSON: where the metric was measured
  curve_points INTEGER NOT NULL, -- how many points of the curve were asked for
  stop_at_chance INTEGER NOT NULL, -- 0 or 1
  purpose TEXT NOT NULL, -- who asked first: search, elite, finalist, control, ...
  status TEXT NOT NULL, -- ok, diverged, at_chance, ...
  sentence TEXT NOT NULL, -- what happened
  metrics TEXT NOT NULL, -- JSON: metric per split
  curve TEXT NOT NULL, -- JSON: [step, metric] pairs
  steps INTEGER NOT NULL, -- training steps done
  seconds REAL NOT NULL, -- wall clock
  worker TEXT NOT NULL, -- process id
  attempt INTEGER NOT NULL, -- 1, or more after lost workers
  finished_at TEXT NOT NULL, -- UTC
  work TEXT NOT NULL, -- train, screen or tune
  settings TEXT NOT NULL, -- JSON of that work, empty for trainings
  product TEXT NOT NULL, -- JSON: what the work made besides metrics, empty for trainings
  row_check INTEGER NOT NULL, -- CRC-32 of the other columns
  PRIMARY KEY (request)
) WITHOUT ROWID;
INSERT INTO "evaluation" VALUES('24807426ca7f4003','{"family":"tree","n":1}',0,0.1,1.0,1.0,'["fitness"]',2,0,'search','diverged','non-finite at step 3','{}','[]',3,1.0,'',1,'2025-02-03T04:05:04.000Z','train','','',2766306295);
INSERT INTO "evaluation" VALUES('3d74bca4a922ac35','{"family":"tree","n":12}',0,0.1,1.0,1.0,'["fitness"]',2,0,'search','diverged','non-finite at step 3','{}','[]',3,1.0,'',1,'2025-02-03T04:05:09.000Z','train','','',3964267559);
INSERT INTO "evaluation" VALUES('9d353eb200b9079d','{"family":"tree","n":10}',0,0.1,1.0,1.0,'["fitness"]',2,0,'search','ok','','{"fitness":0.20469790091738105}','[[1,0.6140937027521431],[2,0.20469790091738105]]',50,1.0,'',1,'2025-02-03T04:05:08.000Z','train','','',629601717);
INSERT INTO "evaluation" VALUES('ae494c34c7a9358c','{"family":"tree","n":11}',0,0.1,1.0,1.0,'["fitness"]',2,0,'search','ok','','{"fitness":0.2269353112205863}','[[1,0.6808059336617589],[2,0.2269353112205863]]',50,1.0,'',1,'2025-02-03T04:05:08.000Z','train','','',1205751399);
INSERT INTO "evaluation" VALUES('cb46b31eb4e14695','{"family":"tree","n":0}',1,1.0,1.0,1.0,'["selection","test"]',0,0,'finalist','ok','','{"selection":0.26468251381690305,"test":0.26468251381690305}','[[1,0.7940475414507091],[2,0.26468251381690305]]',50,1.0,'',1,'2025-02-03T04:05:11.000Z','train','','',1066272695);
INSERT INTO "evaluation" VALUES('cbb9de79046efb24','{"family":"tree","n":0}',0,0.1,1.0,1.0,'["fitness"]',2,0,'search','ok','','{"fitness":0.2652682954600702}','[[1,0.7958048863802105],[2,0.2652682954600702]]',50,1.0,'',1,'2025-02-03T04:05:04.000Z','train','','',304701109);
INSERT INTO "evaluation" VALUES('e0170cf517bace8d','{"family":"tree","n":2}',0,0.1,1.0,1.0,'["fitness"]',2,0,'search','ok','','{"fitness":0.2917839081492275}','[[1,0.8753517244476825],[2,0.2917839081492275]]',50,1.0,'',1,'2025-02-03T04:05:05.000Z','train','','',2091570068);
CREATE TABLE event (
  kind TEXT NOT NULL, -- test_touched, ...
  subject TEXT NOT NULL, -- to whom it happened
  data TEXT NOT NULL, -- JSON
  at TEXT NOT NULL, -- UTC
  row_check INTEGER NOT NULL, -- CRC-32 of the other columns
  PRIMARY KEY (kind, subject)
) WITHOUT ROWID;
INSERT INTO "event" VALUES('test_touched','cb46b31eb4e14695','{}','2025-02-03T04:05:11.000Z',1128573629);
INSERT INTO "event" VALUES('verdict','k00','{"sentence":"not shown"}','2025-02-03T04:05:12.000Z',2876665230);
CREATE TABLE generation (
  number INTEGER NOT NULL, -- of the generation
  state TEXT NOT NULL, -- asked, then told
  candidates INTEGER NOT NULL, -- how many
  counts TEXT NOT NULL, -- JSON: candidates per status
  steps INTEGER NOT NULL, -- training steps spent
  started_at TEXT NOT NULL, -- UTC
  finished_at TEXT, -- UTC
  row_check INTEGER NOT NULL, -- CRC-32 of the other columns
  PRIMARY KEY (number)
) WITHOUT ROWID;
INSERT INTO "generation" VALUES(0,'told',4,'{"diverged":1,"ok":2,"screened:invariant":1}',103,'2025-02-03T04:05:03.000Z','2025-02-03T04:05:06.000Z',3968289820);
INSERT INTO "generation" VALUES(1,'told',4,'{"diverged":1,"ok":2,"screened:invariant":1}',103,'2025-02-03T04:05:07.000Z','2025-02-03T04:05:10.000Z',4123000392);
CREATE TABLE run (
  id INTEGER NOT NULL, -- always 1
  format INTEGER NOT NULL, -- of this file; every format keeps this column
  kind TEXT NOT NULL, -- search, shelf, compare, ...
  task TEXT NOT NULL, -- name
  fingerprint TEXT NOT NULL, -- JSON: what the task was made of
  method TEXT NOT NULL, -- name
  seed INTEGER NOT NULL, -- of the run
  spec_digest TEXT NOT NULL, -- SHA-256 of spec.toml
  state TEXT NOT NULL, -- running, finished, ...
  created_at TEXT NOT NULL, -- UTC
  attempts TEXT NOT NULL, -- JSON: the sessions that worked on the run
  row_check INTEGER NOT NULL, -- CRC-32 of the other columns
  PRIMARY KEY (id)
) WITHOUT ROWID;
INSERT INTO "run" VALUES(1,2,'search','digits/mlp','{"digest":"abc","shapes":[[64,10]]}','random',7,'94d0a3a6399c11bce18ac76e3f2af9bf12eca7caf0523a45f5bc0dff1d57bcb1','finished','2025-02-03T04:05:01.000Z','[{"end":"finished","ended":"2025-02-03T04:05:13.000Z","host":"elsewhere","pid":4321,"started":"2025-02-03T04:05:02.000Z"}]',514839585);
COMMIT;
