package xds

import (
	"errors"
	"fmt"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

// What a request may have, looked at before it is decoded: a message of many small parts takes up to twenty times its
// size in memory. A router's own requests need a fraction of it.
const (
	maxNode    = 8 << 10 // bytes of the node
	maxRest    = 4 << 10 // bytes of all else but error_detail
	maxFields  = 32      // fields that are known, repeated ones each
	maxDetails = 4       // of an error_detail; a router sends one
)

// Field numbers of DeltaDiscoveryRequest and google.rpc.Status.
const (
	requestNode        = 1
	requestErrorDetail = 7
	requestLast        = 9 // the last one that is known: resource_locators_unsubscribe
	statusMessage      = 2
	statusDetails      = 3
)

// requests is a stream whose requests are held to bounds before they are decoded.
type requests struct {
	discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	end func(error) // ends the stream
}

// Recv returns the next request. One that is out of bounds ends the stream.
func (r requests) Recv() (*discovery.DeltaDiscoveryRequest, error) {
	raw := &emptypb.Empty{} // which keeps a message as it came
	if err := r.RecvMsg(raw); err != nil {
		if status.Code(err) == codes.ResourceExhausted { // it is larger than the server takes
			r.end(ending("request", codes.ResourceExhausted, "a request is too large: %s",
				status.Convert(err).Message()))
		}
		return nil, err //nolint:wrapcheck // the delta server only looks whether there is one
	}
	q, err := readRequest(raw.ProtoReflect().GetUnknown())
	if err != nil {
		r.end(ending("request", codes.InvalidArgument, "%s", err))
		return nil, err
	}
	return q, nil
}

// readRequest decodes a request within bounds. Fields that are not known are left out: a newer router may send them.
func readRequest(b []byte) (*discovery.DeltaDiscoveryRequest, error) {
	small, detail, fields := make([]byte, 0, 1<<10), []byte(nil), 0
	for len(b) > 0 {
		number, wire, n := protowire.ConsumeField(b)
		if n < 0 {
			return nil, fmt.Errorf("a request is no DeltaDiscoveryRequest: %w", protowire.ParseError(n))
		}
		field := b[:n]
		b = b[n:]
		if number > requestLast {
			continue
		}
		if fields++; fields > maxFields {
			return nil, fmt.Errorf("a request has more than %d fields: it names one resource and one version",
				maxFields)
		}
		switch {
		case number == requestErrorDetail && wire == protowire.BytesType:
			if detail != nil {
				return nil, errors.New("a request has error_detail twice")
			}
			detail = field
			continue
		case number == requestNode && n > maxNode:
			return nil, fmt.Errorf("node has %d bytes, and may have %d: let node.metadata have less; "+
				"routerd itself sends some hundred bytes", n, maxNode)
		case number != requestNode && len(small)+n > maxNode+maxRest:
			return nil, fmt.Errorf("a request has more than %d bytes beside node and error_detail: subscribe to %q",
				maxRest, wildcard)
		}
		small = append(small, field...)
	}
	q := &discovery.DeltaDiscoveryRequest{}
	if len(small) > maxNode+maxRest {
		return nil, fmt.Errorf("node has more than %d bytes: let node.metadata have less", maxNode)
	}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(small, q); err != nil {
		return nil, fmt.Errorf("a request is no DeltaDiscoveryRequest: %w", err)
	}
	if detail != nil {
		var err error
		if q.ErrorDetail, err = readDetail(detail); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// readDetail reads the error_detail of a request, of which the message and the first details are looked at.
func readDetail(field []byte) (*rpcstatus.Status, error) {
	b, s := content(field), &rpcstatus.Status{}
	for len(b) > 0 {
		number, wire, n := protowire.ConsumeField(b)
		if n < 0 {
			return nil, fmt.Errorf("error_detail is no google.rpc.Status: %w", protowire.ParseError(n))
		}
		if wire == protowire.BytesType {
			value := content(b[:n])
			switch {
			case number == statusMessage:
				s.Message = shorten(string(value[:min(len(value), maxMessage)]), maxMessage)
			case number == statusDetails && len(s.GetDetails()) < maxDetails:
				detail := &anypb.Any{}
				if err := proto.Unmarshal(value, detail); err != nil {
					return nil, fmt.Errorf("error_detail.details: %w", err)
				}
				s.Details = append(s.GetDetails(), detail)
			}
		}
		b = b[n:]
	}
	return s, nil
}

// content returns what a field of the wire type bytes has, which was found to be in order.
func content(field []byte) []byte {
	_, _, n := protowire.ConsumeTag(field)
	b, _ := protowire.ConsumeBytes(field[n:])
	return b
}
