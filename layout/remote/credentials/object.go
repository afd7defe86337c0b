package credentials

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// An object is a JSON object whose members keep their order and their text, so
// that what we don't know survives a change of what we do.
type object struct{ members []member }

type member struct {
	key   string
	value json.RawMessage
}

// parseObject reads an object; no bytes are an empty one.
func parseObject(b []byte) (*object, error) {
	o := &object{}
	if len(bytes.TrimSpace(b)) == 0 || string(bytes.TrimSpace(b)) == "null" {
		return o, nil
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("it is not a JSON object")
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		key, ok := t.(string)
		if !ok {
			return nil, errors.New("it has a member without name")
		}
		if o.get(key) != nil {
			return nil, fmt.Errorf("it has %q twice", key)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		o.members = append(o.members, member{key, value})
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	return o, nil
}

func (o *object) get(key string) json.RawMessage {
	for _, m := range o.members {
		if m.key == key {
			return m.value
		}
	}
	return nil
}

// set replaces a member in its place, or adds it at the end.
func (o *object) set(key string, value json.RawMessage) {
	for i, m := range o.members {
		if m.key == key {
			o.members[i].value = value
			return
		}
	}
	o.members = append(o.members, member{key, value})
}

// setText is set for a text that is not empty.
func (o *object) setText(key, text string) {
	if text != "" {
		b, _ := json.Marshal(text) // a string always can be encoded
		o.set(key, b)
	}
}

// encode returns the object in Docker's form.
func (o *object) encode() ([]byte, error) {
	compact, err := o.compact()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, compact, "", "\t"); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

func (o *object) compact() (json.RawMessage, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o.members {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(m.key)
		if err != nil {
			return nil, err
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(m.value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// setAuth makes e the only entry of auths that means name. Members of an old
// entry that we don't know ("email") stay.
func (o *object) setAuth(name string, e entry) error {
	return o.editAuths(func(auths *object) error {
		old, err := parseObject(auths.get(storageKey(name)))
		if err != nil {
			return fmt.Errorf("entry %q: %w", name, err)
		}
		auths.drop(name, storageKey(name))
		value := &object{}
		for _, m := range old.members {
			switch m.key {
			case "auth", "username", "password", "identitytoken", "registrytoken":
			default:
				value.set(m.key, m.value)
			}
		}
		value.setText("auth", e.Auth)
		value.setText("identitytoken", e.IdentityToken)
		b, err := value.compact()
		if err != nil {
			return err
		}
		auths.set(storageKey(name), b)
		return nil
	})
}

// removeAuth removes all entries of auths that mean name.
func (o *object) removeAuth(name string) error {
	return o.editAuths(func(auths *object) error {
		auths.drop(name, "")
		return nil
	})
}

func (o *object) editAuths(change func(*object) error) error {
	auths, err := parseObject(o.get("auths"))
	if err != nil {
		return fmt.Errorf("auths: %w", err)
	}
	if err := change(auths); err != nil {
		return err
	}
	b, err := auths.compact()
	if err != nil {
		return err
	}
	o.set("auths", b)
	return nil
}

// drop removes the members that mean name, but for one key.
func (o *object) drop(name, except string) {
	kept := o.members[:0]
	for _, m := range o.members {
		if Canonical(m.key) != name || m.key == except {
			kept = append(kept, m)
		}
	}
	o.members = kept
}
