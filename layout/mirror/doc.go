// Package mirror copies images by a list: repositories, patterns of their tags,
// platforms, and what refers to them, from any registries to one place.
//
// Data goes
//
//	Parse    YAML -> List, every mistake with its line
//	Plan     List -> Items: tags are listed and picked, names resolved to digests
//	Run      Items -> the destination, several at a time, each by transfer.Copy
//
// What the destination has is not read again: an image whose tag leads to the
// same digest there costs one request, and a blob that it has one more. So a run
// that was cut off goes on where it stopped. Nothing is ever removed.
package mirror
