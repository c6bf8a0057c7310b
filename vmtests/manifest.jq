# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# For manifest.bats: a container of a manifest as a kubelet and its runtime would
# make it. What this does not know how to honour is an error, so that nothing in
# a manifest goes untried.

def only($names): (keys - $names) as $more
	| if $more == [] then . else error("not tried: \($more)") end;
def from($table; $key): $table[$key] // error("not tried: \($key)");
def bytes: capture("^(?<n>[0-9]+)Mi$").n | tonumber * 1048576;

# Makes of an OCI configuration that of a pod's first container.
#   $pod: its spec, $values: for the downward API, $paths: this test's in the
#   place of the node's, $path: PATH as the image has it
def first_container($pod; $values; $paths; $path):
. as $config
| ($pod.initContainers // $pod.containers)[0]
| only(["name", "image", "imagePullPolicy", "command", "args", "env", "securityContext",
	"resources", "volumeMounts"]) as $container
| $container.securityContext
| only(["runAsUser", "runAsGroup", "runAsNonRoot", "privileged", "allowPrivilegeEscalation",
	"readOnlyRootFilesystem", "capabilities", "seccompProfile"]) as $security
| if $security.privileged or $security.runAsNonRoot or $security.capabilities.drop != ["ALL"]
	or ($security.seccompProfile.type // "Unconfined") != "Unconfined"
	then error("not tried: \($security)") else . end
| [$container.volumeMounts[]
	| only(["name", "mountPath", "readOnly"]) as $mount
	| $pod.volumes[] | select(.name == $mount.name)
	| { destination: $mount.mountPath, source: from($paths; .hostPath.path), type: "none",
	    options: ["rbind", "rprivate", (if $mount.readOnly then "ro" else "rw" end)] }] as $mounts
| $config
| .process.args = $container.command + $container.args
| .process.env = ["PATH=" + $path] + [$container.env // [] | .[]
	| .name + "=" + (.value // from($values; .valueFrom.fieldRef.fieldPath))]
| .process.user = { uid: $security.runAsUser, gid: $security.runAsGroup }
| .process.noNewPrivileges = ($security.allowPrivilegeEscalation | not)
| .process.capabilities[] = [$security.capabilities.add // [] | .[] | "CAP_" + .]
| .root.readonly = $security.readOnlyRootFilesystem
| .mounts += ([ # what a runtime mounts in any container
	{ destination: "/sys", type: "sysfs", source: "sysfs", options: ["ro", "nosuid"] },
	{ destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["ro"] }]
	| map(select(.destination as $at | $mounts | any(.destination == $at) | not))) + $mounts
| .linux.resources = { memory: { limit: ($container.resources.limits.memory | bytes) },
	cpu: { period: 100000, quota: ($container.resources.limits.cpu | tonumber * 100000) } };
