package fleet_test

import (
	"fmt"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// response is what a light router reads of a DeltaDiscoveryResponse: the nonce, and the commit if it is there. All of
// it is decoded only where whole is set.
type response struct {
	whole     bool
	decoded   *discovery.DeltaDiscoveryResponse // if whole
	nonce     string
	commit    *tsujiv1.Commit
	resources int // but the commit
	bytes     int
}

// codec reads responses so, and sends requests that are encoded already.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("a request is %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*response)
	if !ok {
		return fmt.Errorf("a response is read into %T", v)
	}
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	b := buffer.ReadOnlyData()
	*r = response{whole: r.whole, bytes: len(b)}
	if r.whole {
		r.decoded = &discovery.DeltaDiscoveryResponse{}
		if err := proto.Unmarshal(b, r.decoded); err != nil {
			return err
		}
	}
	return fields(b, func(number protowire.Number, value []byte) error {
		switch number {
		case 2: // resources
			return r.resource(value)
		case 5: // nonce
			r.nonce = string(value)
		}
		return nil
	})
}

// resource reads one: its name, and what it is if it is the commit.
func (r *response) resource(b []byte) error {
	var name, packed []byte
	if err := fields(b, func(number protowire.Number, value []byte) error {
		switch number {
		case 2: // resource, an Any
			packed = value
		case 3: // name
			name = value
		}
		return nil
	}); err != nil {
		return err
	}
	if string(name) != tsujiv1.CommitName {
		r.resources++
		return nil
	}
	return fields(packed, func(number protowire.Number, value []byte) error {
		if number != 2 { // value
			return nil
		}
		var decoded tsujiv1.Resource
		if err := proto.Unmarshal(value, &decoded); err != nil {
			return err
		}
		r.commit = decoded.GetCommit()
		return nil
	})
}

// fields calls f with each field of a message that is of bytes.
func fields(b []byte, f func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := f(number, value); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
