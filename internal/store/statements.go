package store

import (
	"strconv"
	"strings"
)

// statement names one of the texts below: all the SQL there is, in the part of
// the language that both engines share. In each text $1, $2, ... first appear
// in that order, because SQLite's driver binds by first appearance.
type statement int

// Writes and guards: only the writer runs these. A guard that is a SELECT gives
// a row exactly when it holds; one that is a write changes a row exactly then.
const (
	never statement = iota
	chainLive
	personThere
	seenIs
	approvalRoom
	approvalTwin
	noLiveTask
	notRevoked
	insertTask
	addChild
	spendGrant
	spendSum
	spendRate
	dropRate
	spendTask
	giveBack
	giveBackSum
	giveBackTask
	renewIdle
	burnOnce
	insertDelegation
	useTicket
	voidTicketsOf
	setGrants
	extendSeen
	insertApproval
	insertVote
	voteApproval
	completeApproval
	denyApproval
	useApproval
	giveBackApproval
	dropRequests
	insertPin
	notePinChange
	clearPinChange
	acceptPin
	keepBundle
	moveSink
	insertMentions
	closeTask
	closeExpired
	retireTask
	insertRevocation
	revokeRoot
	revokeProfile
	revokeSource
	revokeClient
	revokeAll
	voidOfRoot
	voidOfProfile
	voidOfSource
	voidAll
	voidOfClosed
	liftRevocation
	erasePerson
	eraseTasks
	eraseLeases
	eraseDelegations
	eraseApprovals
	eraseLifted
	eraseSignIns
	insertSignIn
	deleteSignIn
	seeSignIn
	purgeSignIns
	revokeToken
	insertKey
	compromiseKey
	openCall
	endCall
	advanceEpoch
	recordEpoch
	insertPerson
	insertMeta
	insertProcess
	seenProcess
	followEpoch
	appendSpan
	putTile
	moveHead
	insertLease
	activateLease
	endLease
	returnLease
	alarmLease
	findLease
	tryLease
	failLease
	hurryLeases
	moveAnchor
	beginUnanchored
	endUnanchored
	purgeOnce
	purgeRevoked
	insertEvent1
	insertEvent8
	insertEvent64
	lastOfProcess
	writes // their number; the reads follow
)

// Reads: the pool runs these.
const (
	readTask statement = iota + writes
	readTasks
	readChildren
	readDescendants
	listTasks
	listUnder
	readExpired
	readOrphans
	readToRetire
	readCounters
	readRate
	readSeen
	readApproval
	readApprovalFor
	listApprovals
	readVotes
	readPins
	readPin
	readBundle
	readSink
	readSinks
	readSignIn
	readStanding
	mentionFloor
	readMentions1
	readMentions2
	readMentions3
	readMentions4
	readMentions5
	readMentions6
	readMentions7
	readMentions8
	readMentions9
	readEventAt
	readDecisionsAfter
	readDelegation
	readDelegationBySecret
	readKeys
	readEpoch
	readEpochChanges
	readRevocations
	readRevokedTokens
	readAbandoned
	callUnder
	readMeta
	readPerson
	readPersonKey
	nextProcess
	readEventByID
	readEventsByTask
	readEventsByDecision
	readEventsAfter
	lastEventTime
	readHeads
	readRun
	readMAC
	readStray
	readSpans
	readTile
	readHead
	readAnchor
	readProcesses
	readEpochOf
	readLease
	readLeaseOf
	readLeasesOf
	readLeasesToEnd
	readLeasesDue
	statements // their number
)

const taskColumns = `t.id, t.profile, t.bundle, t.purpose, t.purpose_by, t.purpose_verified, t.root_json, t.parent, t.root_task,
	t.ancestors, t.depth, t.grants, t.agent_json, t.key_jkt, t.dlg, t.ticket, t.opened_at, t.deadline, t.idle_for, t.idle_until,
	t.budget, t.calls, t.children, t.version, t.closed_at, t.reason, t.closed_by, t.retired_at, t.named`

const approvalColumns = `a.id, a.what, a.task, a.root_task, a.profile, a.root_json, a.purpose, a.purpose_by, a.purpose_verified, a.decision,
	a.bundle, a.key, a.does, a.needs, a.votes, a.request, a.policies, a.usable, a.asked_at, a.expires_at, a.approved_at, a.usable_until,
	a.denied_at, a.denied_by, a.note, a.used_at`

const leaseColumns = `l.id, l.task, l.root_json, l.decision, l.kind, l.target, l.role, l.opened_at, l.expires_at, l.principal,
	l.active_at, l.ended_at, l.reason, l.returned_at, l.tries, l.next_try, l.problem, l.alarmed_at`

const pinColumns = `target, tool, hash, definition, labels, types, by_whom, at, changed, changed_definition, changed_at`

const delegationColumns = `id, profile, purpose, purpose_by, purpose_verified, grants, root_json, parent, expires_at, task_ttl,
	uses, used, made_at, dlg, voided_at`

// A row's position follows from the last span of its process that begins at or
// before it, if that span reaches it.
const eventColumns = `e.proc, e.seq, e.id, e.time, e.kind, e.task, e.decision, e.person, e.leaf, e.body, e.mac,
	(SELECT CASE WHEN e.seq < s.seq + s.n THEN s.start + e.seq - s.seq END
	FROM log_span s WHERE s.proc = e.proc AND s.seq <= e.seq ORDER BY s.seq DESC LIMIT 1)`

// listWhere is the filter of both lists of tasks. What follows "live" in it is
// Task.State as SQL, without the parents.
const listWhere = `
	AND ($2 = '' OR t.profile = $2) AND ($3 = '' OR t.root_kind = $3) AND ($4 = '' OR t.root_sub = $4)
	AND ($5 = ''
		OR ($5 = 'live' AND t.closed_at IS NULL AND t.idle_until > $6 AND t.deadline > $6)
		OR ($5 = 'retiring' AND t.retired_at IS NULL AND NOT (t.closed_at IS NULL AND t.idle_until > $6 AND t.deadline > $6))
		OR ($5 = 'retired' AND t.retired_at IS NOT NULL))
	AND t.id < $7 ORDER BY t.id DESC LIMIT $8`

// purgeLimit is how many rows one purge drops: a commit that drops more would
// hold up everybody behind it.
const purgeLimit = 2000

var texts = [statements]string{
	never: `SELECT 1 WHERE 1 = 0`,

	chainLive: `SELECT COUNT(*) FROM task WHERE id IN ($1, $2, $3, $4, $5, $6)
		AND closed_at IS NULL AND idle_until > $7 AND deadline > $7 HAVING COUNT(*) = $8`,

	personThere: `SELECT 1 FROM person WHERE id = $1 AND key IS NOT NULL`,
	noLiveTask:  `SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM task t WHERE t.person = $1 AND t.person <> '' AND t.retired_at IS NULL)`,

	seenIs: `SELECT COUNT(*) FROM seen WHERE root = $1 HAVING COUNT(*) = $2`,

	approvalRoom: `SELECT 1 WHERE (SELECT COUNT(*) FROM approval w WHERE w.task = $1
			AND w.approved_at IS NULL AND w.denied_at IS NULL AND w.expires_at > $2) < $3
		AND (SELECT COUNT(*) FROM approval h WHERE h.task = $1 AND h.asked_at > $4) < $5`,
	approvalTwin: `SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM approval a WHERE a.task = $1 AND a.key = $2
		AND a.denied_at IS NULL AND a.used_at IS NULL
		AND ((a.approved_at IS NULL AND a.expires_at > $3) OR (a.approved_at IS NOT NULL AND a.usable_until > $3)))`,

	notRevoked: `SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM revocation WHERE lifted_at IS NULL AND matches IN
		($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16))`,

	insertTask: `INSERT INTO task (id, profile, bundle, purpose, purpose_by, purpose_verified, root_kind, root_sub, root_source,
		root_json, person, parent, root_task, ancestors, depth, grants, agent_json, agent_source, agent_client, key_jkt, dlg, ticket,
		named, opened_at, deadline, idle_for, idle_until, budget, calls, children, version, closed_at, reason, closed_by, retired_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $16, $23, $24, $25,
		$26, $27, 0, 0, 1, NULL, '', '', NULL)`,

	addChild: `UPDATE task SET children = children + 1 WHERE id = $1 AND closed_at IS NULL AND children < $2`,

	spendGrant: `INSERT INTO spend (task, grant_key, calls) VALUES ($1, $2, 1)
		ON CONFLICT (task, grant_key) DO UPDATE SET calls = spend.calls + 1 WHERE spend.calls < $3`,

	spendSum: `INSERT INTO spend (task, grant_key, calls) VALUES ($1, $2, $3)
		ON CONFLICT (task, grant_key) DO UPDATE SET calls = spend.calls + excluded.calls WHERE spend.calls + excluded.calls <= $4`,

	spendRate: `INSERT INTO rate_call (task, grant_key, at, n)
		SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS BIGINT),
			(SELECT COALESCE(MAX(m.n), 0) + 1 FROM rate_call m WHERE m.task = $1 AND m.grant_key = $2 AND m.at = $3)
		WHERE (SELECT COUNT(*) FROM rate_call c WHERE c.task = $1 AND c.grant_key = $2 AND c.at > $4) < $5`,
	dropRate: `DELETE FROM rate_call WHERE task = $1 AND grant_key = $2 AND at <= $3`,

	spendTask: `UPDATE task SET calls = calls + 1 WHERE id = $1 AND closed_at IS NULL AND calls < $2`,

	giveBack: `UPDATE spend SET calls = calls - 1 WHERE task = $1 AND grant_key = $2 AND calls > 0
		AND EXISTS (SELECT 1 FROM task t WHERE t.id = $1 AND t.closed_at IS NULL)`,

	giveBackSum: `UPDATE spend SET calls = calls - $1 WHERE task = $2 AND grant_key = $3 AND calls >= $1
		AND EXISTS (SELECT 1 FROM task t WHERE t.id = $2 AND t.closed_at IS NULL)`,

	giveBackTask: `UPDATE task SET calls = calls - 1 WHERE id = $1 AND closed_at IS NULL AND calls > 0`,

	renewIdle: `UPDATE task SET idle_until = $1 WHERE id = $2 AND closed_at IS NULL AND idle_until < $1 AND deadline >= $1`,

	burnOnce: `INSERT INTO once (key, expires_at) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING`,

	insertDelegation: `INSERT INTO delegation (id, secret_hash, profile, purpose, purpose_by, purpose_verified, grants, root_kind,
		root_sub, root_source, root_json, parent, expires_at, task_ttl, uses, used, made_at, dlg, voided_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, 0, $16, $17, NULL)`,

	useTicket: `UPDATE delegation SET used = used + 1
		WHERE id = $1 AND used < uses AND expires_at > $2 AND voided_at IS NULL`,

	voidTicketsOf: `UPDATE delegation SET voided_at = $1 WHERE parent = $2 AND parent <> '' AND voided_at IS NULL`,

	setGrants: `UPDATE task SET grants = $1, version = version + 1 WHERE id = $2 AND version = $3 AND closed_at IS NULL`,

	extendSeen: `INSERT INTO seen (root, label) VALUES ($1, $2) ON CONFLICT (root, label) DO NOTHING`,

	insertApproval: `INSERT INTO approval (id, what, task, root_task, profile, root_kind, root_sub, root_json, purpose, purpose_by,
		purpose_verified, decision, bundle, key, does, needs, needed, votes, request, policies, usable, asked_at, expires_at,
		approved_at, usable_until, denied_at, denied_by, note, used_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, 0, $18, $19, $20, $21, $22,
		NULL, NULL, NULL, '', '', NULL)`,
	insertVote: `INSERT INTO approval_vote (approval, need, by_whom, at) VALUES ($1, $2, $3, $4) ON CONFLICT (approval, need) DO NOTHING`,
	// Of two who vote at once, and each would be the last but one, one is refused
	// and reads again: votes then say who is last.
	voteApproval: `UPDATE approval SET votes = votes + $1 WHERE id = $2 AND votes + $1 < needed
		AND approved_at IS NULL AND denied_at IS NULL AND expires_at > $3`,
	completeApproval: `UPDATE approval SET votes = votes + $1, approved_at = $2, usable_until = $3 WHERE id = $4 AND votes + $1 = needed
		AND approved_at IS NULL AND denied_at IS NULL AND expires_at > $2`,
	denyApproval: `UPDATE approval SET denied_at = $1, denied_by = $2, note = $3, request = NULL
		WHERE id = $4 AND denied_at IS NULL AND used_at IS NULL
		AND ((approved_at IS NULL AND expires_at > $1) OR (approved_at IS NOT NULL AND usable_until > $1))`,
	useApproval: `UPDATE approval SET used_at = $1 WHERE id = $2 AND used_at IS NULL AND denied_at IS NULL
		AND approved_at IS NOT NULL AND usable_until > $1`,
	giveBackApproval: `UPDATE approval SET used_at = NULL WHERE id = $1 AND used_at IS NOT NULL
		AND EXISTS (SELECT 1 FROM task t WHERE t.id = approval.task AND t.closed_at IS NULL)`,
	dropRequests: `UPDATE approval SET request = NULL WHERE request IS NOT NULL AND expires_at <= $1
		AND (approved_at IS NULL OR usable_until <= $1 OR used_at <= $1)`,

	insertPin: `INSERT INTO pin (` + pinColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '', '', NULL)
		ON CONFLICT (target, tool) DO NOTHING`,
	notePinChange: `UPDATE pin SET changed = $1, changed_definition = $2, changed_at = $3
		WHERE target = $4 AND tool = $5 AND hash = $6 AND changed <> $1`,
	clearPinChange: `UPDATE pin SET changed = '', changed_definition = '', changed_at = NULL
		WHERE target = $1 AND tool = $2 AND hash = $3 AND changed <> ''`,
	acceptPin: `UPDATE pin SET hash = $1, definition = $2, labels = $3, types = $4, by_whom = $5, at = $6,
		changed = '', changed_definition = '', changed_at = NULL WHERE target = $7 AND tool = $8 AND changed = $1`,

	keepBundle: `INSERT INTO bundle (hash, text, at) VALUES ($1, $2, $3) ON CONFLICT (hash) DO NOTHING`,
	moveSink: `INSERT INTO sink (name, position) SELECT CAST($1 AS TEXT), CAST($2 AS BIGINT)
		WHERE CAST($3 AS BIGINT) = -1 OR EXISTS (SELECT 1 FROM sink s WHERE s.name = $1)
		ON CONFLICT (name) DO UPDATE SET position = excluded.position WHERE sink.position = $3`,

	// The index is made anew from the log where a crash left it behind, so a
	// mention that is there already is right.
	erasePerson: `UPDATE person SET lookup = NULL, key = NULL WHERE id = $1 AND key IS NOT NULL`,
	eraseTasks: `UPDATE task SET root_sub = $1, root_json = $2, purpose = '', closed_by = CASE WHEN closed_by = $3 THEN $1 ELSE closed_by END
		WHERE person = $1 AND person <> ''`,
	eraseLeases: `UPDATE lease SET root_json = $1 WHERE task IN (SELECT t.id FROM task t WHERE t.person = $2 AND t.person <> '')`,
	eraseDelegations: `UPDATE delegation SET root_sub = $1, root_json = $2, purpose = '', voided_at = COALESCE(voided_at, $3)
		WHERE root_kind = 'human' AND root_sub = $4`,
	eraseApprovals: `UPDATE approval SET root_sub = $1, root_json = $2, purpose = '', request = NULL, note = '',
		denied_at = CASE WHEN approved_at IS NULL THEN COALESCE(denied_at, $3) ELSE denied_at END,
		denied_by = CASE WHEN approved_at IS NULL AND denied_at IS NULL THEN 'erasure' ELSE denied_by END
		WHERE root_kind = 'human' AND root_sub = $4`,
	eraseLifted: `UPDATE revocation SET value = $1, matches = '' WHERE kind = 'human' AND value = $2 AND lifted_at IS NOT NULL`,

	eraseSignIns: `DELETE FROM sign_in WHERE human = $1`,
	insertSignIn: `INSERT INTO sign_in (id, secret, human, subject, at, opened_at, seen_at, ends_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
	deleteSignIn: `DELETE FROM sign_in WHERE id = $1`,
	seeSignIn:    `UPDATE sign_in SET seen_at = $1 WHERE id = $2 AND seen_at < $1`,
	purgeSignIns: `DELETE FROM sign_in WHERE ends_at <= $1 OR seen_at <= $2`,

	insertMentions: insertMentionRows() + ` ON CONFLICT DO NOTHING`,

	closeTask: `UPDATE task SET closed_at = $1, reason = $2, closed_by = $3 WHERE id = $4 AND closed_at IS NULL`,

	closeExpired: `UPDATE task SET closed_at = $1, reason = $2, closed_by = $3
		WHERE id = $4 AND closed_at IS NULL AND (idle_until <= $1 OR deadline <= $1)`,

	retireTask: `UPDATE task SET retired_at = $1 WHERE id = $2 AND closed_at IS NOT NULL AND retired_at IS NULL
		AND NOT EXISTS (SELECT 1 FROM task c WHERE c.parent = $2 AND c.parent <> '' AND c.retired_at IS NULL)
		AND NOT EXISTS (SELECT 1 FROM lease l WHERE l.task = $2 AND l.returned_at IS NULL)`,

	insertLease: `INSERT INTO lease (id, task, root_json, decision, kind, target, role, opened_at, expires_at, principal,
		active_at, ended_at, reason, returned_at, tries, next_try, problem, alarmed_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, '', NULL, NULL, '', NULL, 0, NULL, '', NULL)`,
	activateLease: `UPDATE lease SET principal = $1, expires_at = $2, active_at = $3
		WHERE id = $4 AND active_at IS NULL AND ended_at IS NULL`,
	endLease:    `UPDATE lease SET ended_at = $1, reason = $2, next_try = $1 WHERE id = $3 AND ended_at IS NULL`,
	returnLease: `UPDATE lease SET returned_at = $1, problem = '' WHERE id = $2 AND ended_at IS NOT NULL AND returned_at IS NULL`,
	alarmLease:  `UPDATE lease SET alarmed_at = $1 WHERE id = $2 AND alarmed_at IS NULL AND returned_at IS NULL`,
	findLease:   `UPDATE lease SET returned_at = NULL, next_try = $1, tries = 0, alarmed_at = NULL WHERE id = $2 AND returned_at IS NOT NULL`,
	tryLease: `UPDATE lease SET tries = tries + 1, next_try = $1
		WHERE id = $2 AND tries = $3 AND ended_at IS NOT NULL AND returned_at IS NULL`,
	hurryLeases: `UPDATE lease SET next_try = $1 WHERE ended_at IS NOT NULL AND returned_at IS NULL AND next_try > $1`,
	failLease:   `UPDATE lease SET problem = $1, next_try = $2 WHERE id = $3 AND tries = $4 AND returned_at IS NULL`,

	insertRevocation: `INSERT INTO revocation (id, kind, value, matches, by_whom, at, lifted_at)
		VALUES ($1, $2, $3, $4, $5, $6, NULL)`,

	revokeRoot: `UPDATE task SET closed_at = $1, reason = 'revoked', closed_by = $2
		WHERE closed_at IS NULL AND root_kind = $3 AND root_sub = $4`,
	revokeProfile: `UPDATE task SET closed_at = $1, reason = 'revoked', closed_by = $2 WHERE closed_at IS NULL AND profile = $3`,
	revokeSource: `UPDATE task SET closed_at = $1, reason = 'revoked', closed_by = $2
		WHERE closed_at IS NULL AND (root_source = $3 OR agent_source = $3)`,
	revokeClient: `UPDATE task SET closed_at = $1, reason = 'revoked', closed_by = $2 WHERE closed_at IS NULL AND agent_client = $3`,
	revokeAll:    `UPDATE task SET closed_at = $1, reason = 'revoked', closed_by = $2 WHERE closed_at IS NULL`,

	voidOfRoot: `UPDATE delegation SET voided_at = $1
		WHERE voided_at IS NULL AND expires_at > $1 AND root_kind = $2 AND root_sub = $3`,
	voidOfProfile: `UPDATE delegation SET voided_at = $1 WHERE voided_at IS NULL AND expires_at > $1 AND profile = $2`,
	voidOfSource:  `UPDATE delegation SET voided_at = $1 WHERE voided_at IS NULL AND expires_at > $1 AND root_source = $2`,
	voidAll:       `UPDATE delegation SET voided_at = $1 WHERE voided_at IS NULL AND expires_at > $1`,
	voidOfClosed: `UPDATE delegation SET voided_at = $1 WHERE voided_at IS NULL AND expires_at > $1 AND parent <> ''
		AND EXISTS (SELECT 1 FROM task t WHERE t.id = delegation.parent AND t.closed_at IS NOT NULL)`,

	liftRevocation: `UPDATE revocation SET lifted_at = $1 WHERE id = $2 AND lifted_at IS NULL`,

	revokeToken: `INSERT INTO revoked_token (jti, task, at, expires_at) VALUES ($1, $2, $3, $4) ON CONFLICT (jti) DO NOTHING`,

	insertKey: `INSERT INTO signing_key (id, use, alg, private, made_at, signs_from, signs_until, accept_until, compromised_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, NULL)`,
	compromiseKey: `UPDATE signing_key SET compromised_at = $1 WHERE id = $2 AND compromised_at IS NULL`,

	openCall: `INSERT INTO open_call (decision, task, proc, at) VALUES ($1, $2, $3, $4)`,
	endCall:  `DELETE FROM open_call WHERE decision = $1`,

	advanceEpoch: `UPDATE epoch SET n = n + 1 WHERE one = 1`,
	recordEpoch: `INSERT INTO epoch_change (n, kind, subject, at)
		SELECT n, CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS BIGINT) FROM epoch WHERE one = 1`,

	insertPerson:  `INSERT INTO person (id, lookup, key, made_at) VALUES ($1, $2, $3, $4) ON CONFLICT (lookup) DO NOTHING`,
	insertMeta:    `INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING`,
	insertProcess: `INSERT INTO process (proc, node, started_at, seen_at) VALUES ($1, $2, $3, $4) ON CONFLICT (proc) DO NOTHING`,
	seenProcess:   `UPDATE process SET seen_at = $1 WHERE proc = $2`,

	followEpoch: `UPDATE process SET epoch = $1, epoch_at = $2 WHERE proc = $3 AND epoch < $1`,

	appendSpan: `INSERT INTO log_span (start, proc, seq, n) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
	putTile: `INSERT INTO log_tile (level, idx, data) VALUES ($1, $2, $3)
		ON CONFLICT (level, idx) DO UPDATE SET data = excluded.data`,
	moveHead: `UPDATE log_head SET size = $1, note = $2, at = $3 WHERE one = 1 AND size = $4`,
	// The same size again is another set of cosignatures.
	moveAnchor:      `UPDATE log_anchor SET size = $1, note = $2, at = $3 WHERE one = 1 AND size <= $1`,
	beginUnanchored: `UPDATE log_anchor SET unanchored_at = $1 WHERE one = 1 AND unanchored_at IS NULL AND size = $2`,
	endUnanchored:   `UPDATE log_anchor SET unanchored_at = NULL WHERE one = 1 AND unanchored_at IS NOT NULL`,
	purgeOnce: `DELETE FROM once WHERE key IN
		(SELECT o.key FROM once o WHERE o.expires_at < $1 ORDER BY o.expires_at LIMIT $2)`,
	purgeRevoked: `DELETE FROM revoked_token WHERE expires_at < $1`,

	insertEvent1:  insertEvents(1),
	insertEvent8:  insertEvents(8),
	insertEvent64: insertEvents(64),
	lastOfProcess: `SELECT seq, mac FROM event WHERE proc = $1 ORDER BY seq DESC LIMIT 1`,

	readTask:  `SELECT ` + taskColumns + ` FROM task t WHERE t.id = $1`,
	readTasks: `SELECT ` + taskColumns + ` FROM task t WHERE t.id IN ($1, $2, $3, $4, $5, $6, $7, $8)`,
	readChildren: `SELECT ` + taskColumns + ` FROM task t WHERE t.parent = $1 AND t.parent <> ''
		ORDER BY t.opened_at, t.id`,
	readDescendants: `WITH RECURSIVE below (id) AS (
			SELECT c.id FROM task c WHERE c.parent = $1 AND c.parent <> ''
			UNION ALL SELECT d.id FROM below b CROSS JOIN task d WHERE d.parent = b.id AND d.parent <> '')
		SELECT ` + taskColumns + ` FROM task t WHERE t.id IN (SELECT id FROM below) ORDER BY t.depth, t.opened_at, t.id`,
	listTasks: `SELECT ` + taskColumns + ` FROM task t WHERE $1 = ''` + listWhere,
	listUnder: `WITH RECURSIVE below (id) AS (
			SELECT c.id FROM task c WHERE c.id = $1
			UNION ALL SELECT d.id FROM below b CROSS JOIN task d WHERE d.parent = b.id AND d.parent <> '')
		SELECT ` + taskColumns + ` FROM task t WHERE t.id IN (SELECT id FROM below)` + listWhere,
	readExpired: `SELECT ` + taskColumns + ` FROM task t WHERE t.closed_at IS NULL AND t.idle_until <= $1 ORDER BY t.idle_until LIMIT $2`,
	readOrphans: `SELECT ` + taskColumns + ` FROM task p CROSS JOIN task t
		WHERE p.closed_at IS NOT NULL AND p.retired_at IS NULL AND t.parent = p.id AND t.parent <> '' AND t.closed_at IS NULL LIMIT $1`,
	readToRetire: `SELECT ` + taskColumns + ` FROM task t WHERE t.closed_at IS NOT NULL AND t.retired_at IS NULL
		AND NOT EXISTS (SELECT 1 FROM task c WHERE c.parent = t.id AND c.parent <> '' AND c.retired_at IS NULL)
		AND NOT EXISTS (SELECT 1 FROM lease l WHERE l.task = t.id AND l.returned_at IS NULL)
		ORDER BY t.closed_at LIMIT $1`,
	readCounters: `SELECT grant_key, calls FROM spend WHERE task = $1`,
	readRate:     `SELECT COUNT(*) FROM rate_call WHERE task = $1 AND grant_key = $2 AND at > $3`,
	readSeen:     `SELECT label FROM seen WHERE root = $1 ORDER BY label`,
	readApproval: `SELECT ` + approvalColumns + ` FROM approval a WHERE a.id = $1`,
	readApprovalFor: `SELECT ` + approvalColumns + ` FROM approval a WHERE a.task = $1 AND a.key = $2
		ORDER BY a.asked_at DESC, a.id DESC LIMIT 1`,
	listApprovals: `SELECT ` + approvalColumns + ` FROM approval a WHERE ($1 = '' OR a.task = $1) AND ($2 = '' OR a.id < $2)
		AND (CAST($3 AS BIGINT) = 0 OR (a.approved_at IS NULL AND a.denied_at IS NULL AND a.expires_at > $3)) ORDER BY a.id DESC LIMIT $4`,
	readVotes:  `SELECT need, by_whom, at FROM approval_vote WHERE approval = $1 ORDER BY at, need`,
	readPins:   `SELECT ` + pinColumns + ` FROM pin ORDER BY target, tool`,
	readPin:    `SELECT ` + pinColumns + ` FROM pin WHERE target = $1 AND tool = $2`,
	readBundle: `SELECT text FROM bundle WHERE hash = $1`,
	readSignIn: `SELECT id, subject, at, opened_at, seen_at, ends_at FROM sign_in WHERE secret = $1`,
	readSinks:  `SELECT name, position FROM sink ORDER BY name`,
	readStanding: `SELECT (SELECT COUNT(*) FROM task t WHERE t.closed_at IS NULL),
		(SELECT COUNT(*) FROM task t WHERE t.closed_at IS NOT NULL AND t.retired_at IS NULL),
		(SELECT COUNT(*) FROM lease l WHERE l.ended_at IS NULL),
		(SELECT COUNT(*) FROM lease l WHERE l.ended_at IS NOT NULL AND l.returned_at IS NULL),
		(SELECT COUNT(*) FROM lease l WHERE l.ended_at IS NOT NULL AND l.returned_at IS NULL AND l.alarmed_at IS NOT NULL),
		(SELECT COUNT(*) FROM approval a WHERE a.approved_at IS NULL AND a.denied_at IS NULL AND a.expires_at > $1)`,
	mentionFloor: `SELECT at, position FROM mention WHERE key = $1 AND (at, position) < ($2, $3) AND (at, position) >= ($4, $5)
		ORDER BY at DESC, position DESC LIMIT 1 OFFSET $6`,
	readMentions1: mentionsOf(1), readMentions2: mentionsOf(2), readMentions3: mentionsOf(3), readMentions4: mentionsOf(4), readMentions5: mentionsOf(5),
	readMentions6: mentionsOf(6), readMentions7: mentionsOf(7), readMentions8: mentionsOf(8), readMentions9: mentionsOf(9),
	readEventAt: `SELECT e.proc, e.seq, e.id, e.time, e.kind, e.task, e.decision, e.person, e.leaf, e.body, e.mac, s.start + e.seq - s.seq
		FROM log_span s CROSS JOIN event e
		WHERE s.start = (SELECT MAX(a.start) FROM log_span a WHERE a.start <= $1)
		AND e.proc = s.proc AND e.seq = s.seq + ($1 - s.start) AND e.seq < s.seq + s.n`,
	readSink:               `SELECT position FROM sink WHERE name = $1`,
	readDelegation:         `SELECT ` + delegationColumns + ` FROM delegation WHERE id = $1`,
	readDelegationBySecret: `SELECT ` + delegationColumns + ` FROM delegation WHERE secret_hash = $1`,
	readKeys: `SELECT id, use, alg, private, made_at, signs_from, signs_until, accept_until, compromised_at
		FROM signing_key WHERE use = $1 ORDER BY made_at, id`,
	readEpoch:         `SELECT n FROM epoch WHERE one = 1`,
	readEpochChanges:  `SELECT n, kind, subject, at FROM epoch_change WHERE n > $1 ORDER BY n LIMIT $2`,
	readRevocations:   `SELECT id, kind, value, by_whom, at FROM revocation WHERE lifted_at IS NULL ORDER BY at, id`,
	readRevokedTokens: `SELECT jti, task, at, expires_at FROM revoked_token WHERE expires_at > $1`,
	readAbandoned: `SELECT c.decision, c.task, c.at FROM open_call c WHERE c.proc <> $1
		AND NOT EXISTS (SELECT 1 FROM process p WHERE p.proc = c.proc AND p.seen_at > $2) LIMIT $3`,
	callUnder: `SELECT c.decision FROM open_call c CROSS JOIN task t
		WHERE t.id = c.task AND (t.id = $1 OR REPLACE(t.ancestors, $2, '') <> t.ancestors) LIMIT 1`,
	readMeta:      `SELECT value FROM meta WHERE key = $1`,
	readPerson:    `SELECT id, key FROM person WHERE lookup = $1`,
	readPersonKey: `SELECT key FROM person WHERE id = $1`,
	nextProcess:   `SELECT COALESCE(MAX(proc), 0) + 1 FROM process`,

	readEventByID: `SELECT ` + eventColumns + ` FROM event e WHERE e.id = $1`,
	readEventsByTask: `SELECT ` + eventColumns + ` FROM event e WHERE e.task = $1 AND e.task <> ''
		AND (e.time, e.proc, e.seq) > ($2, $3, $4) ORDER BY e.time, e.proc, e.seq LIMIT $5`,
	readEventsByDecision: `SELECT ` + eventColumns + ` FROM event e WHERE e.decision = $1 AND e.decision <> ''
		ORDER BY e.time, e.proc, e.seq`,
	readEventsAfter: `SELECT e.proc, e.seq, e.id, e.time, e.kind, e.task, e.decision, e.person, e.leaf, e.body, e.mac, s.start + e.seq - s.seq
		FROM log_span s CROSS JOIN event e
		WHERE s.start >= COALESCE((SELECT MAX(a.start) FROM log_span a WHERE a.start <= $1), 0)
		AND e.proc = s.proc AND e.seq >= s.seq AND e.seq < s.seq + s.n AND s.start + e.seq - s.seq > $1
		ORDER BY s.start, e.seq LIMIT $2`,
	readDecisionsAfter: `SELECT e.proc, e.seq, e.id, e.time, e.kind, e.task, e.decision, e.person, e.leaf, e.body, e.mac, s.start + e.seq - s.seq
		FROM log_span s CROSS JOIN event e
		WHERE s.start >= COALESCE((SELECT MAX(a.start) FROM log_span a WHERE a.start <= $1), 0)
		AND e.proc = s.proc AND e.seq >= s.seq AND e.seq < s.seq + s.n AND s.start + e.seq - s.seq > $1
		AND e.kind = 'call.decided' AND e.time >= $2 ORDER BY s.start, e.seq LIMIT $3`,
	lastEventTime: `SELECT COALESCE(MAX(e.time), 0) FROM process p CROSS JOIN event e
		WHERE e.proc = p.proc AND e.seq = (SELECT MAX(l.seq) FROM event l WHERE l.proc = p.proc)`,

	// A scalar subquery, because PostgreSQL plans an EXISTS here as a join over
	// the whole event table: 1,760 events/s at 60,000 rows, against 29,000.
	readHeads: `SELECT h.proc, h.next FROM (SELECT p.proc AS proc,
			COALESCE((SELECT s.seq + s.n FROM log_span s WHERE s.proc = p.proc ORDER BY s.seq DESC LIMIT 1), 1) AS next FROM process p) h
		WHERE (SELECT e.seq FROM event e WHERE e.proc = h.proc ORDER BY e.seq DESC LIMIT 1) >= h.next ORDER BY h.proc`,
	readRun: `SELECT e.proc, e.seq, e.id, e.time, e.kind, e.task, e.decision, e.person, e.leaf, e.body, e.mac, CAST(NULL AS BIGINT)
		FROM event e WHERE e.proc = $1 AND e.seq >= $2 ORDER BY e.seq LIMIT $3`,
	readStray: `SELECT e.proc, e.seq, e.id, e.time, e.kind, e.task, e.decision, e.person, e.leaf, e.body, e.mac, CAST(NULL AS BIGINT)
		FROM event e WHERE e.seq < 1 OR NOT EXISTS (SELECT 1 FROM process p WHERE p.proc = e.proc) ORDER BY e.proc, e.seq LIMIT 1`,
	readMAC:   `SELECT mac FROM event WHERE proc = $1 AND seq = $2`,
	readSpans: `SELECT start, proc, seq, n FROM log_span WHERE start > $1 ORDER BY start LIMIT $2`,
	readTile:  `SELECT data FROM log_tile WHERE level = $1 AND idx = $2`,
	readHead:  `SELECT size, note, at FROM log_head WHERE one = 1`,

	readAnchor: `SELECT size, note, at, unanchored_at FROM log_anchor WHERE one = 1`,

	readProcesses: `SELECT node, epoch, epoch_at FROM process WHERE started_at <= $1 AND seen_at > $2 ORDER BY node, proc`,
	readEpochOf: `SELECT COALESCE(MAX(n), 0) FROM epoch_change WHERE (kind = 'task' AND subject IN ($1, $2, $3, $4, $5, $6))
		OR (kind = 'revocation' AND at = $7)`,
	readLease:    `SELECT ` + leaseColumns + ` FROM lease l WHERE l.id = $1`,
	readLeaseOf:  `SELECT ` + leaseColumns + ` FROM lease l WHERE l.principal = $1 AND l.principal <> '' ORDER BY l.id DESC LIMIT 1`,
	readLeasesOf: `SELECT ` + leaseColumns + ` FROM lease l WHERE l.task = $1 ORDER BY l.id`,
	readLeasesToEnd: `SELECT ` + leaseColumns + ` FROM lease l CROSS JOIN task t WHERE l.ended_at IS NULL AND t.id = l.task
		AND ((l.active_at IS NOT NULL AND (t.closed_at IS NOT NULL OR l.expires_at <= $1))
			OR (l.active_at IS NULL AND NOT EXISTS (SELECT 1 FROM open_call c WHERE c.decision = l.decision))) ORDER BY l.id LIMIT $2`,
	readLeasesDue: `SELECT ` + leaseColumns + ` FROM lease l WHERE l.ended_at IS NOT NULL AND l.returned_at IS NULL AND l.next_try <= $1
		ORDER BY l.next_try, l.id LIMIT $2`,
}

// insertEvents is the insert of n event rows at once.
func insertEvents(n int) string {
	var b strings.Builder
	b.WriteString(`INSERT INTO event (proc, seq, id, time, kind, task, decision, person, leaf, body, mac) VALUES `)
	for i := range n {
		if i > 0 {
			b.WriteString(`, `)
		}
		for c := range eventColumnCount {
			b.WriteString([]string{`(`, `, `}[min(c, 1)])
			b.WriteString(`$` + strconv.Itoa(i*eventColumnCount+c+1))
		}
		b.WriteString(`)`)
	}
	return b.String()
}

const eventColumnCount = 11

// mentionSlots is how many mentions of one record are inserted at once.
const mentionSlots = 8

func insertMentionRows() string {
	rows := make([]string, mentionSlots)
	for i := range rows {
		rows[i] = `($1, $2, $` + strconv.Itoa(i+3) + `)`
	}
	return `INSERT INTO mention (at, position, key) VALUES ` + strings.Join(rows, `, `)
}

// mentionsOf reads where n keys are mentioned together: the first leads, so it
// should be the one with the fewest.
func mentionsOf(n int) string {
	var also strings.Builder
	for i := 1; i < n; i++ {
		x := `x` + strconv.Itoa(i)
		also.WriteString(` AND EXISTS (SELECT 1 FROM mention ` + x + ` WHERE ` + x + `.key = $` + strconv.Itoa(i+5) +
			` AND ` + x + `.at = m.at AND ` + x + `.position = m.position)`)
	}
	return `SELECT m.at, m.position FROM mention m WHERE m.key = $1 AND (m.at, m.position) < ($2, $3) AND (m.at, m.position) >= ($4, $5)` +
		also.String() + ` ORDER BY m.at DESC, m.position DESC LIMIT $` + strconv.Itoa(n+5)
}

// parameters is how many arguments s takes: the highest $n in it.
func (s statement) parameters() int {
	highest := 0
	for part := range strings.SplitSeq(texts[s], "$") {
		n := 0
		for _, c := range part {
			if c < '0' || c > '9' {
				break
			}
			n = 10*n + int(c-'0')
		}
		highest = max(highest, n)
	}
	return highest
}
