package openstack

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// file is one that a plan means.
type file struct {
	path string
	mode uint32
	text string
}

// section is one of a settings file as OpenStack's programs read it (oslo.config): key, value, key, value …
type section struct {
	name   string
	values []string
}

// settings returns a file that only root reads: systemd hands it to the services whose it is.
func settings(name string, sections ...section) file {
	var b strings.Builder
	for _, s := range sections {
		fmt.Fprintf(&b, "[%s]\n", s.name)
		for pair := range slices.Chunk(s.values, 2) {
			fmt.Fprintf(&b, "%s = %s\n", pair[0], strings.ReplaceAll(pair[1], "$", "$$"))
		}
	}
	return secret(name, b.String())
}

// secret is a file that only root reads.
func secret(name, text string) file {
	return file{path: runDir + "/" + name, mode: 0o600, text: text}
}

// files returns the settings and units of a controller.
func (p plan) files() []file {
	list := p.projectFiles()
	list = append(list, p.storeFiles()...)
	list = append(list, p.cephFiles()...)
	list = append(list, p.dashboard(), p.frontFile(),
		file{path: bootEnv, mode: 0o600, text: "OS_BOOTSTRAP_PASSWORD=" + p.secrets[userSecret("admin")] + "\n"})
	for _, u := range p.units() {
		list = append(list, file{path: unitDir + "/" + u.name, mode: 0o644, text: u.text()})
	}
	return list
}

// connection is a database as SQLAlchemy finds it. There is no password: the kernel says who calls.
func connection(user, name string) []string {
	return []string{"connection", "mysql+pymysql://" + user + "@localhost/" + name + "?unix_socket=/" + database + "&charset=utf8", "max_pool_size", "5"}
}

// access is how a service calls others, in a section of keystoneauth's.
func (p plan) access(name, user string, more ...string) section {
	return section{name, append([]string{
		"auth_type", "password", "auth_url", p.keystone(), "username", user, "password", p.secrets[userSecret(user)], "project_name", "service",
		"user_domain_name", "Default", "project_domain_name", "Default", "region_name", p.wish.Region, "cafile", "/" + caFile,
	}, more...)}
}

// tokens is how a service checks tokens.
func (p plan) tokens(user, kind string) section {
	return p.access("keystone_authtoken", user, "www_authenticate_uri", p.keystone(), "service_type", kind, "service_token_roles_required", "true",
		"memcached_servers", "unix:/"+cacheAt, "memcache_security_strategy", "ENCRYPT", "memcache_secret_key", p.secrets[secretCache])
}

// queue is the message queue as a URL.
func (p plan) queue() string {
	return "rabbit://openstack:" + p.secrets[secretQueue] + "@127.0.0.1:5672/"
}

func (p plan) projectFiles() []file {
	proxied := section{"oslo_middleware", []string{"enable_proxy_headers_parsing", "true"}}
	silent := section{"oslo_messaging_notifications", []string{"driver", "noop"}}
	queue := []string{"transport_url", p.queue()}
	locks := func(user string) section {
		return section{"oslo_concurrency", []string{"lock_path", "/var/lib/" + user + "/tmp"}}
	}
	list := []file{
		settings("keystone.conf",
			section{"DEFAULT", []string{"public_endpoint", p.url(5000, "")}},
			section{"database", connection("keystone", "keystone")},
			section{"cache", []string{"enabled", "true", "backend", "oslo_cache.memcache_pool", "memcache_servers", "unix:/" + cacheAt}},
			section{"fernet_tokens", []string{"key_repository", "/run/openstack-keystone/fernet-keys"}},
			section{"fernet_receipts", []string{"key_repository", "/run/openstack-keystone/fernet-keys"}},
			section{"identity", []string{"max_password_length", "72"}}, // of which bcrypt takes no more
			section{"credential", []string{"key_repository", "/run/openstack-keystone/credential-keys"}},
			proxied, silent),
		settings("placement.conf",
			section{"api", []string{"auth_strategy", "keystone"}}, section{"placement_database", connection("placement", "placement")},
			p.tokens("placement", "placement"), proxied),
		settings("glance-api.conf", append(p.imageStores(),
			section{"os_glance_staging_store", []string{"filesystem_store_datadir", "/var/lib/glance/staging"}},
			section{"os_glance_tasks_store", []string{"filesystem_store_datadir", "/var/lib/glance/tasks"}},
			section{"database", connection("glance", "glance")}, section{"paste_deploy", []string{"flavor", "keystone", "config_file", "/etc/glance/glance-api-paste.ini"}},
			p.tokens("glance", "image"), locks("glance"), proxied, silent)...),
		settings("nova.conf",
			section{"DEFAULT", append(queue, "my_ip", p.address, "host", p.node, "state_path", "/var/lib/nova", "periodic_fuzzy_delay", "0")},
			section{"api_database", connection("nova", "nova_api")}, section{"database", connection("nova", "nova")},
			section{"api", []string{"auth_strategy", "keystone"}},
			section{"wsgi", []string{"api_paste_config", "/etc/nova/api-paste.ini", "secure_proxy_ssl_header", "HTTP_X_FORWARDED_PROTO"}},
			section{"conductor", []string{"workers", "1"}}, section{"scheduler", []string{"workers", "1", "discover_hosts_in_cells_interval", "10"}},
			section{"vnc", []string{"novncproxy_host", "127.0.0.1", "novncproxy_port", strconv.Itoa(portConsoleLocal)}},
			section{"glance", []string{"region_name", p.wish.Region, "cafile", "/" + caFile}},
			p.tokens("nova", "compute"), p.access("service_user", "nova", "send_service_user_token", "true"), p.access("placement", "placement"),
			p.access("neutron", "neutron", "service_metadata_proxy", "true", "metadata_proxy_shared_secret", p.secrets[secretMetadata]),
			p.access("cinder", "cinder", "catalog_info", "volumev3::internalURL", "os_region_name", p.wish.Region),
			locks("nova"), proxied, silent),
		settings("neutron.conf",
			section{"DEFAULT", append(queue, "core_plugin", "ml2", "service_plugins", "ovn-router", "auth_strategy", "keystone", "state_path", "/var/lib/neutron", "api_paste_config", "/etc/neutron/api-paste.ini",
				"notify_nova_on_port_status_changes", "true", "notify_nova_on_port_data_changes", "true", "host", p.node)},
			section{"ml2", []string{"mechanism_drivers", "ovn", "type_drivers", "local,flat,vlan,geneve", "tenant_network_types", "geneve", "extension_drivers", "port_security"}},
			section{"ml2_type_geneve", []string{"vni_ranges", "1:65536", "max_header_size", "38"}},
			section{"ml2_type_flat", []string{"flat_networks", "*"}},
			section{"ml2_type_vlan", []string{"network_vlan_ranges", strings.Join(p.physical(), ",")}},
			section{"securitygroup", []string{"enable_security_group", "true"}},
			section{"ovn", []string{"ovn_nb_connection", "unix:/" + ovnSocket("nb"), "ovn_sb_connection", "unix:/" + ovnSocket("sb"), "ovn_metadata_enabled", "true",
				"enable_distributed_floating_ip", "true"}},
			section{"database", connection("neutron", "neutron")}, p.tokens("neutron", "network"), p.access("nova", "nova"), p.access("placement", "placement"),
			locks("neutron"), proxied, silent),
		settings("cinder.conf", append(p.volumeBackend(),
			section{"DEFAULT", append(queue, "auth_strategy", "keystone", "my_ip", p.address, "host", p.node, "state_path", "/var/lib/cinder",
				"api_paste_config", "/etc/cinder/api-paste.ini", "glance_api_servers", p.url(9292, ""), "glance_ca_certificates_file", "/"+caFile)},
			section{"database", connection("cinder", "cinder")}, p.tokens("cinder", "block-storage"),
			p.access("service_user", "cinder", "send_service_user_token", "true"), p.access("nova", "nova"), locks("cinder"), proxied, silent)...),
	}
	// By the time of its start, which uwsgi fills in, OVN's ring of workers is made anew.
	list = append(list, file{path: neutronIni, mode: 0o644, text: "[uwsgi]\nstart-time = %t\n"})
	for _, name := range fernetFiles() {
		list = append(list, file{path: keyFile(name), mode: 0o600, text: p.fernetKey(name)})
	}
	return list
}

// physical are the names of the physical networks that the site document speaks of.
func (p plan) physical() (list []string) {
	for _, n := range p.wish.Networks {
		if n.Physical != "" && !slices.Contains(list, n.Physical) {
			list = append(list, n.Physical)
		}
	}
	slices.Sort(list)
	return list
}

func (p plan) storeFiles() []file {
	definitions, err := json.MarshalIndent(map[string]any{
		"users": []any{map[string]any{"name": "openstack", "password_hash": rabbitHash(p.secrets[secretQueue]), "hashing_algorithm": "rabbit_password_hashing_sha256",
			"tags": []string{}}},
		"vhosts":      []any{map[string]any{"name": "/"}},
		"permissions": []any{map[string]any{"user": "openstack", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}},
	}, "", "  ")
	if err != nil {
		panic(err) // made of strings, lists and maps here
	}
	return []file{
		{path: databaseSet, mode: 0o644, text: strings.Join([]string{
			"[mariadbd]", "datadir = " + databaseDir, "socket = /" + database, "pid-file = /run/mysqld/mysqld.pid", "skip-networking", "skip-name-resolve",
			"character-set-server = utf8mb3", "collation-server = utf8mb3_general_ci", "max_connections = 500", "performance_schema = off",
			"innodb_buffer_pool_size = 64M", "aria_pagecache_buffer_size = 8M", "key_buffer_size = 1M", "table_open_cache = 512", "table_definition_cache = 512", "innodb_log_file_size = 48M", "innodb_flush_log_at_trx_commit = 1", "",
		}, "\n")},
		secret("rabbitmq.conf", strings.Join([]string{
			"listeners.tcp.local = 127.0.0.1:5672", "load_definitions = /run/credentials/" + unitQueue + "/definitions.json", "log.console.level = warning", "",
		}, "\n")),
		secret("definitions.json", string(definitions)+"\n"),
		secret("erlang.cookie", p.secrets[secretCookie]),
		secret("horizon.key", p.secrets[secretSession]),
	}
}

// rabbitHash is a password as RabbitMQ keeps it (its guide "Passwords"): base64 of four bytes of salt and the SHA-256 of both. The
// password is 256 random bits; the salt only has to be the same at each writing.
func rabbitHash(password string) string {
	seed := sha256.Sum256([]byte("salt " + password))
	salt := seed[:4]
	sum := sha256.Sum256(append(slices.Clone(salt), password...))
	return base64.StdEncoding.EncodeToString(append(slices.Clone(salt), sum[:]...))
}

// dashboard is horizon's settings, which are Python: strings are written as JSON, which Python reads alike.
func (p plan) dashboard() file {
	quote := func(s string) string {
		b, err := json.Marshal(s)
		if err != nil {
			panic(err) // a string
		}
		return string(b)
	}
	return file{path: "etc/openstack-dashboard/local_settings.d/_50_roost.py", mode: 0o644, text: strings.Join([]string{
		"import os",
		"SECRET_KEY = open(os.environ['CREDENTIALS_DIRECTORY'] + '/horizon.key').read()",
		"ALLOWED_HOSTS = [" + quote(p.address) + ", " + quote(p.node) + ", 'localhost']",
		"OPENSTACK_KEYSTONE_URL = " + quote(p.keystone()),
		"OPENSTACK_KEYSTONE_DEFAULT_ROLE = 'member'",
		"OPENSTACK_SSL_CACERT = " + quote("/"+caFile),
		"STATIC_ROOT = '/usr/share/openstack-dashboard/static'",
		"# A session ends here, not in the browser: a cookie that holds all of it would be good after its owner logged out.",
		"SESSION_ENGINE = 'django.contrib.sessions.backends.cache'",
		"CACHES = {'default': {'BACKEND': 'django.core.cache.backends.memcached.PyMemcacheCache', 'LOCATION': 'unix:/" + cacheAt + "'}}",
		"SECURE_PROXY_SSL_HEADER = ('HTTP_X_FORWARDED_PROTO', 'https')",
		"CSRF_COOKIE_SECURE = True",
		"SESSION_COOKIE_SECURE = True",
		"SESSION_COOKIE_HTTPONLY = True",
		"WEBROOT = '/'",
		"LOGGING = {'version': 1, 'disable_existing_loggers': False, 'handlers': {'console': {'class': 'logging.StreamHandler', 'level': 'INFO'}}, 'root': {'handlers': ['console'], 'level': 'INFO'}}",
		"",
	}, "\n")}
}

// frontFile says what the front leads where.
func (p plan) frontFile() file {
	var routes []Route
	for _, x := range allProjects() {
		routes = append(routes, Route{Port: x.port, Socket: "/" + socketOf(x.name)})
	}
	routes = append(routes, Route{Port: portConsole, Local: portConsoleLocal})
	b, err := json.MarshalIndent(routes, "", "  ")
	if err != nil {
		panic(err) // made of strings and numbers here
	}
	return file{path: frontAt, mode: 0o644, text: string(b) + "\n"}
}
