# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# For manifest.bats: a container of a manifest as a kubelet and its runtime would
# make it. What this does not know how to honour is an error, so that nothing in
# a manifest goes untried.

def only($names): (keys - $names) as $more
	| if $more == [] then . else error("not tried: \($more)") end;
def from($table; $key): $table[$key] // error("not tried: \($key)");
def bytes: capture("^(?<n>[0-9]+)Mi$").n | tonumber * 1048576;

# What a kubelet does with $(NAME) in arguments.
def expanded($env): reduce ($env[] | split("=")) as $pair (.;
	gsub("\\$\\(" + $pair[0] + "\\)"; $pair[1:] | join("=")));

# Makes of an OCI configuration that of a pod's container.
#   $pod: its spec, $name: the container's, $values: for the downward API, $paths: this
#   test's in the place of the node's, and of volumes that are the pod's own by their
#   names, $path: PATH as the image has it
def container($pod; $name; $values; $paths; $path):
. as $config
| (($pod.initContainers // []) + $pod.containers)
| map(select(.name == $name))[0] // error("no container \($name)")
| only(["name", "image", "imagePullPolicy", "command", "args", "env", "securityContext",
	"resources", "volumeMounts", "ports", "readinessProbe", "livenessProbe"]) as $container
| $container.securityContext
| only(["runAsUser", "runAsGroup", "runAsNonRoot", "privileged", "allowPrivilegeEscalation",
	"readOnlyRootFilesystem", "capabilities", "seccompProfile", "appArmorProfile",
	"seLinuxOptions"]) as $security
# The profiles are a runtime's own: tried where there is one, or the module is in the kernel.
| if $security.privileged or $security.runAsNonRoot or $security.capabilities.drop != ["ALL"]
	then error("not tried: \($security)") else . end
| [$container.volumeMounts // [] | .[]
	| only(["name", "mountPath", "readOnly"]) as $mount
	| $pod.volumes[] | select(.name == $mount.name)
	| { destination: $mount.mountPath, source: from($paths; .hostPath.path // .name), type: "none",
	    options: ["rbind", "rprivate", (if $mount.readOnly then "ro" else "rw" end)] }] as $mounts
| [$container.env // [] | .[]
	| .name + "=" + (.value // from($values; .valueFrom.fieldRef.fieldPath))] as $env
| $config
| .process.args = ($container.command + ($container.args // []) | map(expanded($env)))
| .process.env = ["PATH=" + $path] + $env
| .process.user = { uid: $security.runAsUser, gid: $security.runAsGroup }
| .process.noNewPrivileges = ($security.allowPrivilegeEscalation | not)
| .process.capabilities[] = [$security.capabilities.add // [] | .[] | "CAP_" + .]
| .root.readonly = $security.readOnlyRootFilesystem
| .mounts += ([ # what a runtime mounts in any container
	{ destination: "/sys", type: "sysfs", source: "sysfs", options: ["ro", "nosuid"] },
	{ destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["ro"] }]
	| map(select(.destination as $at | $mounts | any(.destination == $at) | not))) + $mounts
| if $pod.hostPID then .linux.namespaces |= map(select(.type != "pid")) else . end
| .linux.resources = { memory: { limit: ($container.resources.limits.memory | bytes) } }
| if $container.resources.limits.cpu then .linux.resources.cpu = { period: 100000,
	quota: ($container.resources.limits.cpu | tonumber * 100000) } else . end;
