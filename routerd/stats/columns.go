package stats

// column is a column of HAProxy's statistics that is exposed.
type column uint8

// The columns that OpenShift's router exposes by default, in the order of its numbers.
const (
	queued column = iota
	sessions
	sessionsMax
	sessionsTotal
	bytesIn
	bytesOut
	connectErrors
	responseErrors
	status
	checkFailures
	downtime
	rate
	rateMax
	responses1xx
	responses2xx
	responses3xx
	responses4xx
	responses5xx
	responsesOther
	queueTime
	connectTime
	responseTime
	connections
	reused
	columnCount
)

// columnNames are HAProxy's names of the columns: the header of its CSV decides where they are.
var columnNames = [columnCount]string{
	"qcur", "scur", "smax", "stot", "bin", "bout", "econ", "eresp", "status", "chkfail", "downtime", "rate", "rate_max",
	"hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx", "hrsp_other", "qtime", "ctime", "rtime", "conn_tot", "reuse",
}

// gather says how the values of several objects with the same labels become one.
type gather uint8

const (
	sum     gather = iota
	largest        // maxima; averages too, of which the worst is told; and "up", where one is enough
	counter        // a sum that is carried across reloads
)

var columnGather = [columnCount]gather{
	sessionsMax: largest, status: largest, rateMax: largest, queueTime: largest, connectTime: largest, responseTime: largest,
	sessionsTotal: counter, bytesIn: counter, bytesOut: counter, connectErrors: counter, responseErrors: counter,
	checkFailures: counter, downtime: counter, connections: counter, reused: counter,
	responses1xx: counter, responses2xx: counter, responses3xx: counter, responses4xx: counter, responses5xx: counter, responsesOther: counter,
}

// kind is what a row is about, as HAProxy's column "type" numbers it.
type kind uint8

const (
	frontend kind = iota
	backend
	server
	kindCount
)

// metric is one column of one kind under its name.
type metric struct {
	column column
	code   string // of http_responses_total: the class of status
	name   string // without the prefix of its kind
	help   string
}

var prefixes = [kindCount]string{"haproxy_frontend_", "haproxy_backend_", "haproxy_server_"}

var responses = []metric{
	{responses1xx, "1xx", "http_responses_total", "HTTP responses, by class of status."},
	{responses2xx, "2xx", "http_responses_total", ""},
	{responses3xx, "3xx", "http_responses_total", ""},
	{responses4xx, "4xx", "http_responses_total", ""},
	{responses5xx, "5xx", "http_responses_total", ""},
	{responsesOther, "other", "http_responses_total", ""},
}

// common is what backends and servers have in common.
var common = append([]metric{
	{queued, "", "current_queue", "Requests that wait for a connection."},
	{sessions, "", "current_sessions", "Sessions at present."},
	{sessionsMax, "", "max_sessions", "The most sessions that there were at one time."},
	{sessionsTotal, "", "connections_total", "Sessions so far."},
	{bytesIn, "", "bytes_in_total", "Bytes received from clients."},
	{bytesOut, "", "bytes_out_total", "Bytes sent to clients."},
	{connectErrors, "", "connection_errors_total", "Connections that could not be made."},
	{responseErrors, "", "response_errors_total", "Responses that broke off or were not valid."},
	{status, "", "up", "Whether it gets traffic: 1 or 0."},
	{rate, "", "current_session_rate", "Sessions in the last second."},
	{rateMax, "", "max_session_rate", "The most sessions that there were in one second."},
	{queueTime, "", "http_average_queue_latency_milliseconds", "How long the last 1024 requests waited for a connection, on average."},
	{connectTime, "", "http_average_connect_latency_milliseconds", "How long connecting took for the last 1024 requests, on average."},
	{responseTime, "", "http_average_response_latency_milliseconds", "How long the last 1024 requests waited for the response's head, on average."},
	{reused, "", "connections_reused_total", "Requests that found a connection open already."},
}, responses...)

// metrics are those of each kind. All are gauges, as with OpenShift's router, whatever their names say: with them
// a route that goes and comes back is no reset of a counter, and what reads them is used to it.
var metrics = [kindCount][]metric{
	frontend: append([]metric{
		{sessions, "", "current_sessions", "Sessions at present."},
		{sessionsMax, "", "max_sessions", "The most sessions that there were at one time."},
		{bytesIn, "", "bytes_in_total", "Bytes received from clients."},
		{bytesOut, "", "bytes_out_total", "Bytes sent to clients."},
		{rate, "", "current_session_rate", "Sessions in the last second."},
		{rateMax, "", "max_session_rate", "The most sessions that there were in one second."},
		{connections, "", "connections_total", "Connections so far."},
	}, responses...),
	backend: common,
	server: append([]metric{
		{checkFailures, "", "check_failures_total", "Health checks that failed."},
		{downtime, "", "downtime_seconds_total", "Seconds for which it was down."},
	}, common...),
}
