package workshop

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"refurb/agent/wire"
)

const (
	maxList   = 64       // entries of any list in a message
	maxStored = 64 << 10 // bytes of a report's JSON after cleaning; a real one has about 8 KiB
)

// Clean bounds a message from a donated PC in place: every string is valid
// UTF-8 of at most wire.MaxText bytes on one line, every list has at most 64
// entries, no number is negative. m is a pointer to one of wire's types. It
// works on whatever fields there are, so that a new field is never forgotten.
func Clean(m any) { clean(reflect.ValueOf(m)) }

func clean(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			clean(v.Elem())
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			clean(v.Field(i))
		}
	case reflect.Slice:
		if v.Len() > maxList {
			v.Set(v.Slice3(0, maxList, maxList))
		}
		for i := range v.Len() {
			clean(v.Index(i))
		}
	case reflect.String:
		v.SetString(Text(v.String()))
	case reflect.Int, reflect.Int64:
		if v.Int() < 0 {
			v.SetInt(0)
		}
	}
}

// Text makes one safe line of a string from outside: no control characters and
// none that turn the direction of the text round, at most wire.MaxText bytes.
func Text(s string) string {
	if len(s) > 4*wire.MaxText {
		s = s[:4*wire.MaxText]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError, unicode.Is(unicode.Bidi_Control, r):
			return -1
		case unicode.IsControl(r), unicode.IsSpace(r):
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	s = strings.Join(strings.Fields(s), " ")
	for len(s) > wire.MaxText {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return strings.TrimSpace(s)
}

// cleanReport also holds the whole to a size that twenty thousand devices may have.
func cleanReport(rep *wire.Report) ([]byte, error) {
	Clean(rep)
	for i := range rep.Disks {
		switch d := &rep.Disks[i]; d.Class {
		case wire.ClassBlank, wire.ClassOurs, wire.ClassStructured, wire.ClassEncrypted, wire.ClassLocked, wire.ClassUnreadable:
		default:
			d.Class = wire.ClassData // what can't be named is data
		}
	}
	if rep.BootID == "" {
		return nil, &Refusal{Kind: Invalid, Message: "The report names no boot id", Next: "Restart the PC"}
	}
	b, err := json.Marshal(rep)
	if err != nil {
		return nil, fmt.Errorf("writing the report down: %w", err)
	}
	if len(b) > maxStored {
		return nil, &Refusal{Kind: Invalid, Message: fmt.Sprintf("The report has %d bytes, at most %d are kept", len(b), maxStored)}
	}
	return b, nil
}
