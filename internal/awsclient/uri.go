package awsclient

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/hyperiondb/vault/internal/lazyregexp"
)

var (
	regionName = lazyregexp.New(`^[a-z][a-z0-9-]{0,61}[a-z0-9]$`)
	hostName   = lazyregexp.New(`^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$`)
)

// Place is the region and endpoint of a service in a URI's query; "" leaves it to the AWS configuration.
type Place struct{ Region, Endpoint string }

// ParsePlace reads region= and endpoint=, once each at most, and nothing else.
func ParsePlace(query url.Values) (p Place, err error) {
	for parameter, values := range query {
		if len(values) != 1 {
			return Place{}, fmt.Errorf("query parameter %s is repeated", strconv.QuoteToASCII(parameter))
		}
		switch parameter {
		case "region":
			p.Region, err = parseRegion(values[0])
		case "endpoint":
			p.Endpoint, err = parseEndpoint(values[0])
		default:
			err = fmt.Errorf("unknown query parameter %s", strconv.QuoteToASCII(parameter))
		}
		if err != nil {
			return Place{}, err
		}
	}
	return p, nil
}

// Query is the text that ParsePlace reads as the same place: "" or "?...". It needs no escaping: an accepted endpoint
// has letters, digits and .-:/[] only.
func (p Place) Query() string {
	var query []string
	if p.Region != "" {
		query = append(query, "region="+p.Region)
	}
	if p.Endpoint != "" {
		query = append(query, "endpoint="+p.Endpoint)
	}
	if len(query) == 0 {
		return ""
	}
	return "?" + strings.Join(query, "&")
}

// RegionName reports whether s can be a region.
func RegionName(s string) bool { return regionName().MatchString(s) }

// parseRegion refuses what is not a DNS label, because the region becomes part of a host name.
func parseRegion(s string) (string, error) {
	if !RegionName(s) {
		return "", fmt.Errorf("region %s is not a region name", strconv.QuoteToASCII(s))
	}
	return s, nil
}

func parseEndpoint(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Opaque != "" || u.User != nil || u.Host == "" || strings.Trim(u.Path, "/") != "" ||
		u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return "", errors.New("endpoint is not http://HOST:PORT or https://HOST[:PORT]")
	}
	host, err := canonicalHost(u)
	if err != nil {
		return "", err
	}
	if err := plainOnlyToLoopback(u); err != nil {
		return "", err
	}
	return u.Scheme + "://" + host, nil
}

func canonicalHost(u *url.URL) (string, error) {
	host := strings.ToLower(u.Hostname())
	if strings.HasPrefix(u.Host, "[") {
		addr, err := netip.ParseAddr(host)
		if err != nil || addr.Zone() != "" {
			return "", errors.New("endpoint has a bad IPv6 address")
		}
		host = addr.String()
	} else if !hostName().MatchString(host) {
		return "", errors.New("endpoint has a bad host name")
	}
	bracketed := host
	if strings.Contains(host, ":") {
		bracketed = "[" + host + "]"
	}
	if u.Port() == "" {
		return bracketed, nil
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || port == 0 {
		return "", errors.New("endpoint has a bad port")
	}
	return net.JoinHostPort(host, strconv.FormatUint(port, 10)), nil
}

// plainOnlyToLoopback keeps unencrypted data keys, and the names in an audit log, off the network.
func plainOnlyToLoopback(u *url.URL) error {
	switch u.Scheme {
	case "https":
		return nil
	case "http":
		addr, err := netip.ParseAddr(u.Hostname())
		if strings.EqualFold(u.Hostname(), "localhost") || err == nil && addr.IsLoopback() {
			return nil
		}
		return errors.New("endpoint is plain http to another machine, use https")
	}
	return errors.New("endpoint is neither http nor https")
}
