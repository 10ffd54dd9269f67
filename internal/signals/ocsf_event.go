package signals

import (
	"time"

	"github.com/mayfly-id/mayfly"
)

// ocsfEvent is one line, with the attributes of OCSF that are used here.
type ocsfEvent struct {
	ActivityID     int             `json:"activity_id"`
	ActivityName   string          `json:"activity_name"`
	CategoryUID    int             `json:"category_uid"`
	CategoryName   string          `json:"category_name"`
	ClassUID       int             `json:"class_uid"`
	ClassName      string          `json:"class_name"`
	TypeUID        int             `json:"type_uid"`
	TypeName       string          `json:"type_name"`
	Time           int64           `json:"time"` // milliseconds
	SeverityID     int             `json:"severity_id"`
	Severity       string          `json:"severity"`
	StatusID       int             `json:"status_id,omitzero"`
	Status         string          `json:"status,omitzero"`
	StatusCode     string          `json:"status_code,omitzero"`
	StatusDetail   string          `json:"status_detail,omitzero"`
	Message        string          `json:"message,omitzero"`
	Count          int64           `json:"count,omitzero"`
	Metadata       ocsfMetadata    `json:"metadata"`
	ActionID       int             `json:"action_id,omitzero"` // profile security_control
	Action         string          `json:"action,omitzero"`
	DispositionID  int             `json:"disposition_id,omitzero"`
	Disposition    string          `json:"disposition,omitzero"`
	Authorizations []ocsfAuthorize `json:"authorizations,omitzero"`
	IsAlert        bool            `json:"is_alert,omitzero"`
	Actor          *ocsfActor      `json:"actor,omitzero"`
	User           *ocsfUser       `json:"user,omitzero"`
	Session        *ocsfSession    `json:"session,omitzero"`
	Service        *ocsfNamed      `json:"service,omitzero"`
	Privileges     []string        `json:"privileges,omitzero"`
	Entity         *ocsfEntity     `json:"entity,omitzero"`
	API            *ocsfAPI        `json:"api,omitzero"`
	SrcEndpoint    *ocsfEndpoint   `json:"src_endpoint,omitzero"`
	HTTPResponse   *ocsfResponse   `json:"http_response,omitzero"`
	Resources      []ocsfResource  `json:"resources,omitzero"`
	Trace          *ocsfTrace      `json:"trace,omitzero"` // profile trace
	App            *ocsfProduct    `json:"app,omitzero"`
	FindingInfo    *ocsfFinding    `json:"finding_info,omitzero"`
	Unmapped       ocsfUnmapped    `json:"unmapped,omitzero"`
}

type ocsfMetadata struct {
	Version        string      `json:"version"`
	Product        ocsfProduct `json:"product"`
	UID            string      `json:"uid"`                      // the record's id
	Sequence       int64       `json:"sequence"`                 // its position in the log
	EventCode      string      `json:"event_code"`               // its kind
	CorrelationUID string      `json:"correlation_uid,omitzero"` // its task
	LogName        string      `json:"log_name"`
	Profiles       []string    `json:"profiles,omitzero"`
}

type ocsfProduct struct {
	Name       string `json:"name"`
	VendorName string `json:"vendor_name"`
	Version    string `json:"version,omitzero"`
	UID        string `json:"uid,omitzero"`
}

type ocsfAuthorize struct {
	Decision string     `json:"decision"`
	Policy   *ocsfNamed `json:"policy,omitzero"`
}

type ocsfNamed struct {
	Name string `json:"name,omitzero"`
	UID  string `json:"uid,omitzero"`
}

type ocsfActor struct {
	User    *ocsfUser    `json:"user,omitzero"`
	Session *ocsfSession `json:"session,omitzero"`
	AppUID  string       `json:"app_uid,omitzero"` // the task: who acts for the user
	AppName string       `json:"app_name,omitzero"`
}

type ocsfUser struct {
	Name        string           `json:"name,omitzero"`
	UID         string           `json:"uid,omitzero"`
	TypeID      int              `json:"type_id"`
	Type        string           `json:"type"`
	Groups      []ocsfNamed      `json:"groups,omitzero"`
	Domain      string           `json:"domain,omitzero"` // the source that vouched
	Credentials []ocsfCredential `json:"programmatic_credentials,omitzero"`
}

type ocsfCredential struct {
	UID  string `json:"uid"`
	Type string `json:"type"`
}

type ocsfSession struct {
	UID            string `json:"uid"` // jti of the token
	UIDAlt         string `json:"uid_alt,omitzero"`
	Issuer         string `json:"issuer,omitzero"`
	ExpirationTime int64  `json:"expiration_time,omitzero"`
}

type ocsfEntity struct {
	UID     string `json:"uid"`
	Name    string `json:"name,omitzero"`
	TypeID  int    `json:"type_id"`
	Type    string `json:"type"`
	Version string `json:"version,omitzero"`
}

type ocsfAPI struct {
	Operation string        `json:"operation"`
	Service   *ocsfNamed    `json:"service,omitzero"`
	Request   *ocsfUID      `json:"request,omitzero"`
	Response  *ocsfAnswered `json:"response,omitzero"`
}

type ocsfUID struct {
	UID string `json:"uid"`
}

type ocsfAnswered struct {
	Code    int    `json:"code,omitzero"`
	Message string `json:"message,omitzero"`
}

type ocsfEndpoint struct {
	IP   string `json:"ip,omitzero"`
	Name string `json:"name,omitzero"`
}

type ocsfResponse struct {
	Code       int   `json:"code"`
	BodyLength int64 `json:"body_length"`
}

type ocsfResource struct {
	UID  string `json:"uid,omitzero"`
	Name string `json:"name,omitzero"`
	Type string `json:"type"`
}

type ocsfTrace struct {
	UID string `json:"uid"`
}

type ocsfFinding struct {
	UID   string   `json:"uid"`
	Title string   `json:"title"`
	Desc  string   `json:"desc,omitzero"`
	Types []string `json:"types,omitzero"`
}

// ocsfUnmapped is what OCSF has no attribute for.
type ocsfUnmapped struct {
	Decision  string                    `json:"decision,omitzero"`
	Term      mayfly.Term               `json:"term,omitzero"`
	Bundle    string                    `json:"bundle,omitzero"`
	Erased    bool                      `json:"erased,omitzero"` // the person's key is gone, and with it the body
	Profile   string                    `json:"profile,omitzero"`
	Purpose   *mayfly.Purpose           `json:"purpose,omitzero"`
	Grants    []mayfly.Grant            `json:"grants,omitzero"`
	Parent    mayfly.TaskID             `json:"parent,omitzero"`
	Agent     *mayfly.Evidence          `json:"agent,omitzero"`
	Ticket    string                    `json:"delegation,omitzero"`
	Approval  string                    `json:"approval,omitzero"`
	Needs     []string                  `json:"needs,omitzero"`
	Audience  string                    `json:"audience,omitzero"`
	Root      string                    `json:"root,omitzero"` // for whom, where actor is who did it
	Surface   string                    `json:"surface,omitzero"`
	Digest    string                    `json:"digest,omitzero"`
	Size      int64                     `json:"size,omitzero"`
	Facts     mayfly.Facts              `json:"facts,omitzero"`
	Labels    []string                  `json:"labels,omitzero"`
	Seen      []string                  `json:"seen,omitzero"`
	Observed  []mayfly.Term             `json:"observed,omitzero"`
	Outcome   string                    `json:"outcome,omitzero"`
	Lease     string                    `json:"lease,omitzero"`
	Tries     int64                     `json:"tries,omitzero"`
	Stopped   []mayfly.EnforcementPoint `json:"enforcement_points,omitzero"`
	Previous  string                    `json:"previous,omitzero"`
	Until     time.Time                 `json:"until,omitzero"`
	Node      string                    `json:"node,omitzero"`
	Witnesses map[string]string         `json:"witnesses,omitzero"`
	Anchored  int64                     `json:"anchored,omitzero"`
	LogSize   int64                     `json:"log_size,omitzero"`
	Decisions int64                     `json:"decisions,omitzero"`
	Changed   int64                     `json:"changed,omitzero"`
}
